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

}  // namespace

void bind_watch(nb::module_& m) {
  using namespace nb::literals;
  m.def("first_change", &first_change, "containers"_a, "copies"_a,
        "The first of these dicts and lists that holds other objects than its copy; -1 for none.");
}

}  // namespace host
