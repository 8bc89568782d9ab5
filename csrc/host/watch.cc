// What has become of dicts and lists since copies of them were taken: item by item, by identity.
#include "arrays.h"

namespace host {
namespace {

bool same_dict(PyObject* dict, PyObject* copy) {
  const Py_ssize_t size = PyTuple_Size(copy);
  if (2 * PyDict_Size(dict) != size) return false;
  Py_ssize_t place = 0, i = 0;
  PyObject *key = nullptr, *value = nullptr;
  while (PyDict_Next(dict, &place, &key, &value)) {
    if (i + 1 >= size || PyTuple_GetItem(copy, i) != key || PyTuple_GetItem(copy, i + 1) != value)
      return false;
    i += 2;
  }
  return i == size;
}

bool same_list(PyObject* list, PyObject* copy) {
  const Py_ssize_t size = PyTuple_Size(copy);
  if (PyList_Size(list) != size) return false;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (PyList_GetItem(list, i) != PyTuple_GetItem(copy, i)) return false;
  return true;
}

// A copy is a tuple of the items of a list, or of the keys and values of a dict in turn.
int64_t first_change(const nb::list& containers, const nb::list& copies) {
  if (nb::len(containers) != nb::len(copies)) refuse("as many containers as copies");
  const auto count = static_cast<Py_ssize_t>(nb::len(containers));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* now = PyList_GetItem(containers.ptr(), i);
    PyObject* then = PyList_GetItem(copies.ptr(), i);
    if (!PyTuple_Check(then)) throw nb::type_error("a copy is a tuple");
    if (!PyDict_Check(now) && !PyList_Check(now)) throw nb::type_error("a dict or a list");
    if (!(PyDict_Check(now) ? same_dict(now, then) : same_list(now, then))) return i;
  }
  return -1;
}

}  // namespace

void bind_watch(nb::module_& m) {
  using namespace nb::literals;
  m.def("first_change", &first_change, "containers"_a, "copies"_a,
        "The first of these dicts and lists that holds other objects than its copy; -1 for none.");
}

}  // namespace host
