// What the files of the Python module share: arrays checked, a call of the C interface made.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bitcompress/bits.h"

namespace host {

namespace nb = nanobind;

using In = nb::ndarray<nb::ro>;
using Out = nb::ndarray<>;
using Pair = std::pair<int64_t, int64_t>;

[[noreturn]] inline void refuse(const std::string& what) { throw nb::value_error(what.c_str()); }

template <class T>
const char* type_name() {
  if (std::is_same_v<T, uint8_t>) return "uint8";
  if (std::is_same_v<T, int16_t>) return "int16";
  if (std::is_same_v<T, int32_t>) return "int32";
  if (std::is_same_v<T, int64_t>) return "int64";
  return "float32";
}

inline std::string sizes(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

template <class Array>
std::vector<int64_t> shape_of(const Array& array) {
  std::vector<int64_t> shape;
  for (size_t i = 0; i < array.ndim(); ++i) shape.push_back(static_cast<int64_t>(array.shape(i)));
  return shape;
}

template <class Array>
bool is_dense(const Array& array) {
  int64_t step = 1;
  if (array.size() == 0) return true;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != step) return false;
    step *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

// A dense CPU array of the element type and number of axes.
template <class T, class Array>
void check(const Array& array, const char* name, size_t axes) {
  const std::string who = name;
  if (array.device_type() != nb::device::cpu::value)
    throw nb::type_error((who + " must lie in CPU memory").c_str());
  if (array.dtype() != nb::dtype<T>())
    throw nb::type_error((who + " must have elements of type " + type_name<T>()).c_str());
  if (array.ndim() != axes)
    refuse(who + " must have " + std::to_string(axes) + " axes, not " +
           std::to_string(array.ndim()));
  if (!is_dense(array)) refuse(who + " must be contiguous");
}

template <class Array>
void check_shape(const Array& array, const char* name, const std::vector<int64_t>& wanted) {
  if (shape_of(array) != wanted) {
    refuse(std::string(name) + " must have shape " + sizes(wanted) + ", not " +
           sizes(shape_of(array)));
  }
}

template <class T>
const T* read_any(const In& array, const char* name, size_t axes) {
  check<T>(array, name, axes);
  return static_cast<const T*>(array.data());
}

template <class T>
const T* read(const In& array, const char* name, const std::vector<int64_t>& shape) {
  check<T>(array, name, shape.size());
  check_shape(array, name, shape);
  return static_cast<const T*>(array.data());
}

template <class T>
T* write(const Out& array, const char* name, const std::vector<int64_t>& shape) {
  check<T>(array, name, shape.size());
  check_shape(array, name, shape);
  return static_cast<T*>(array.data());
}

// Runs a call of the C interface without the interpreter lock; a status that is not BC_OK becomes
// an exception.
template <class F>
void call(const char* name, F&& f) {
  bc_status status = BC_OK;
  {
    nb::gil_scoped_release release;
    status = f();
  }
  if (status == BC_NO_MEMORY) throw std::bad_alloc();
  if (status != BC_OK) refuse(std::string(name) + ": " + bc_status_text(status));
}

// Each file of the module adds its functions.
void bind_attention(nb::module_& m);
void bind_bound_attention(nb::module_& m);
void bind_layer(nb::module_& m);
void bind_learn(nb::module_& m);
void bind_peak(nb::module_& m);
void bind_reals(nb::module_& m);
void bind_steps(nb::module_& m);
void bind_watch(nb::module_& m);

}  // namespace host
