// What has become of dicts and lists since copies of them were taken: item by item, by identity.
#include "arrays.h"

namespace host {
namespace {

// Without the checks of the functions, where the interface of the interpreter has it so.
#ifdef Py_LIMITED_API
inline PyObject* item(PyObject* tuple, Py_ssize_t i) { return PyTuple_GetItem(tuple, i); }
inline PyObject* element(PyObject* list, Py_ssize_t i) { return PyList_GetItem(list, i); }
inline Py_ssize_t size_of(PyObject* tuple) { return PyTuple_Size(tuple); }
#else
inline PyObject* item(PyObject* tuple, Py_ssize_t i) { return PyTuple_GET_ITEM(tuple, i); }
inline PyObject* element(PyObject* list, Py_ssize_t i) { return PyList_GET_ITEM(list, i); }
inline Py_ssize_t size_of(PyObject* tuple) { return PyTuple_GET_SIZE(tuple); }
#endif

bool same_dict(PyObject* dict, PyObject* copy) {
  const Py_ssize_t size = size_of(copy);
  if (2 * PyDict_Size(dict) != size) return false;
  if (size == 0) return true;
  Py_ssize_t place = 0, i = 0;
  PyObject *key = nullptr, *value = nullptr;
  while (i < size && PyDict_Next(dict, &place, &key, &value)) {
    if (item(copy, i) != key || item(copy, i + 1) != value) return false;
    i += 2;
  }
  return i == size;
}

bool same_list(PyObject* list, PyObject* copy) {
  const Py_ssize_t size = size_of(copy);
  if (PyList_Size(list) != size) return false;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (element(list, i) != item(copy, i)) return false;
  return true;
}

// A copy is a tuple of the items of a list, or of the keys and values of a dict in turn.
int64_t first_change(const nb::list& containers, const nb::list& copies) {
  if (nb::len(containers) != nb::len(copies)) refuse("as many containers as copies");
  const auto count = static_cast<Py_ssize_t>(nb::len(containers));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* now = element(containers.ptr(), i);
    PyObject* then = element(copies.ptr(), i);
    if (!PyTuple_Check(then)) throw nb::type_error("a copy is a tuple");
    if (!PyDict_Check(now) && !PyList_Check(now)) throw nb::type_error("a dict or a list");
    if (!(PyDict_Check(now) ? same_dict(now, then) : same_list(now, then))) return i;
  }
  return -1;
}

// The first dict that is not empty; -1 for none. Most tables of a module are, and stay so.
int64_t first_filled(const nb::list& dicts) {
  const auto count = static_cast<Py_ssize_t>(nb::len(dicts));
  for (Py_ssize_t i = 0; i < count; ++i)
    if (PyDict_Size(element(dicts.ptr(), i)) != 0) return i;
  return -1;
}

// The first object whose attribute is another whole number than then; -1 for none.
int64_t first_other(const nb::list& objects, nb::str name, const nb::list& then) {
  if (nb::len(objects) != nb::len(then)) refuse("as many objects as numbers");
  const auto count = static_cast<Py_ssize_t>(nb::len(objects));
  for (Py_ssize_t i = 0; i < count; ++i) {
    const nb::object now =
        nb::steal(PyObject_GetAttr(element(objects.ptr(), i), name.ptr()));
    if (!now.is_valid()) throw nb::python_error();
    if (now.ptr() == element(then.ptr(), i)) continue;  // small numbers are one object each
    if (PyObject_RichCompareBool(now.ptr(), element(then.ptr(), i), Py_EQ) != 1) return i;
  }
  return -1;
}

}  // namespace

void bind_watch(nb::module_& m) {
  using namespace nb::literals;
  m.def("first_change", &first_change, "containers"_a, "copies"_a,
        "The first of these dicts and lists that holds other objects than its copy; -1 for none.");
  m.def("first_filled", &first_filled, "dicts"_a, "The first dict with anything in it; -1 for none.");
  m.def("first_other", &first_other, "objects"_a, "name"_a, "then"_a,
        "The first object whose attribute `name` is another number than in `then`; -1 for none.");
}

}  // namespace host
