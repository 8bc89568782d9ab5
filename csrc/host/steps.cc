// Chains of steps for Python, and rows through a chain.
#include "steps.h"

namespace host {
namespace {

template <class T, class Array>
T* floats(const Array& array, const char* name) {
  if (array.device_type() != nb::device::cpu::value || array.dtype() != nb::dtype<float>())
    throw nb::type_error((std::string(name) + " must be float32 in CPU memory").c_str());
  return static_cast<T*>(array.data());
}

}  // namespace

Chain::Chain(std::vector<StepParts> parts) : held_(std::move(parts)) {
  for (const StepParts& part : held_) {
    const auto& [kind, value, data, shift, out, each] = part;
    if (each < 1) refuse("at least one row has an operand");
    bc_step step{};
    step.kind = kind, step.value = value, step.each = each;
    if (kind == BC_NORM) {
      for (const auto* array : {&data, &shift}) {
        if (!array->has_value()) continue;
        check<float>(**array, "gain and shift of a norm", 1);
        extents_.push_back({1, static_cast<int64_t>((*array)->shape(0)), true});
      }
      if (data.has_value()) step.data = floats<const float>(*data, "gain");
      if (shift.has_value()) step.shift = floats<const float>(*shift, "shift");
    } else if (data.has_value()) {
      operand(step, *data);
    }
    if (kind == BC_MUL_ADD && shift.has_value()) {
      check<float>(*shift, "the gain of an operand", 1);
      extents_.push_back({1, static_cast<int64_t>(shift->shape(0)), true});
      step.shift = floats<const float>(*shift, "the gain of an operand");
    }
    if (out.has_value()) {
      if (out->ndim() != 2) refuse("what a step stores to must have 2 axes");
      const Rows rows = rows_in(*out, "what a step stores to", shape_of(*out));
      if (rows.codes) throw nb::type_error("a step stores float32");
      step.out = static_cast<float*>(const_cast<void*>(rows.data));
      step.out_pitch = rows.pitch;
      extents_.push_back({static_cast<int64_t>(out->shape(0)),
                          static_cast<int64_t>(out->shape(1)), true});
    }
    steps_.push_back(step);
  }
}

void Chain::operand(bc_step& step, const In& array) {
  step.data = floats<const float>(array, "an operand");
  if (array.ndim() != 2) refuse("an operand must have 2 axes");
  const std::vector<int64_t> s = shape_of(array);
  step.row = s[0] == 1 ? 0 : array.stride(0);
  step.column = s[1] == 1 ? 0 : array.stride(1);
  extents_.push_back({s[0], s[1], false, step.each});
}

void Chain::check_rows(int64_t rows, int64_t channels) const {
  for (const Extent& e : extents_) {
    const bool of_rows = e.rows * e.each == rows || e.rows == 1, of_channels = e.channels == channels;
    if (!of_rows || !(of_channels || (!e.exact && e.channels == 1)))
      refuse("an array of a step has " + sizes({e.rows, e.channels}) + " rows and channels, not " +
             sizes({rows, channels}));
  }
}

template <class Array>
Rows rows_in(const Array& array, const char* name, const std::vector<int64_t>& shape) {
  check_shape(array, name, shape);
  const bool codes = array.dtype() == nb::dtype<uint8_t>();
  if (array.device_type() != nb::device::cpu::value ||
      (!codes && array.dtype() != nb::dtype<float>()))
    throw nb::type_error((std::string(name) + " must be float32 or uint8 in CPU memory").c_str());
  const size_t axes = shape.size();
  const int64_t channels = shape[axes - 1];
  // The distance of rows is that of the last axis of rows that has more than one.
  int64_t pitch = channels, rows = 1;
  bool known = false, regular = channels <= 1 || array.stride(axes - 1) == 1;
  for (size_t i = axes - 1; i-- > 0;) {
    if (shape[i] != 1) {
      if (!known) pitch = array.stride(i) / rows, known = true;
      regular = regular && array.stride(i) == pitch * rows;
    }
    rows *= shape[i];
  }
  if (array.size() > 0 && (!regular || pitch < channels))
    refuse(std::string(name) + " must be contiguous, or a slice of channels");
  return {array.data(), codes, std::max(pitch, channels)};
}
template Rows rows_in(const In&, const char*, const std::vector<int64_t>&);
template Rows rows_in(const Out&, const char*, const std::vector<int64_t>&);

void set_grid(bc_sink& sink, const Grid& grid, int64_t channels) {
  if (!grid.has_value()) return;
  const auto& [scale, offset, top] = *grid;
  check<float>(scale, "the scale of the output", 1);
  sink.groups = static_cast<int64_t>(scale.shape(0));
  if (sink.groups != 1 && sink.groups != channels)
    refuse("the output has 1 grid or one a channel");
  sink.scale = read<float>(scale, "the scale of the output", {sink.groups});
  sink.offset = read<float>(offset, "the offset of the output", {sink.groups});
  sink.top = read<float>(top, "the top of the output", {sink.groups});
}

namespace {

// Rows through a chain, its arrays resolved.
class RowsRun {
 public:
  RowsRun(const nb::object& chain, const In& x, const std::optional<Out>& out, const Grid& grid)
      : chain_(chain), x_(x), out_(out), grid_(grid) {
    const std::vector<int64_t> s = shape_of(x);
    if (s.size() != 2) refuse("x must have 2 axes");
    rows_ = s[0], channels_ = s[1];
    const Rows from = rows_in(x, "x", s);
    if (from.codes) throw nb::type_error("x must be float32");
    from_ = static_cast<const float*>(from.data), pitch_ = from.pitch;
    steps().check_rows(rows_, channels_);
    set_grid(sink_, grid, channels_);
    if (!out.has_value()) return;
    const Rows to = rows_in(*out, "out", s);
    if (to.codes != grid.has_value()) throw nb::type_error("out must be uint8 where it has a grid");
    sink_.out = const_cast<void*>(to.data), sink_.pitch = to.pitch;
  }

  void run(int threads) const {
    const Chain& chain = steps();
    call("rows", [&] {
      return bc_rows(chain.data(), chain.size(), rows_, channels_, from_, pitch_, &sink_, threads);
    });
  }

 private:
  const Chain& steps() const { return *nb::inst_ptr<Chain>(chain_); }

  nb::object chain_;
  In x_;
  std::optional<Out> out_;
  Grid grid_;
  int64_t rows_ = 0, channels_ = 0, pitch_ = 0;
  const float* from_ = nullptr;
  bc_sink sink_{};
};

}  // namespace

void bind_steps(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<Chain>(m, "Chain",
                    "Steps (kind, value, operand, shift, out, each) on rows; operands are f32[rows / each "
                    "or 1, channels or 1]. Their arrays are held.")
      .def(nb::init<std::vector<StepParts>>(), "steps"_a)
      .def("__len__", &Chain::size);
  nb::class_<RowsRun>(m, "Rows", "f32[rows, C] through a chain to out, f32 or u8 by a grid.")
      .def("__init__",
           [](RowsRun* self, nb::typed<nb::object, Chain> chain, const In& x,
              const std::optional<Out>& out, const Grid& grid) {
             new (self) RowsRun(chain, x, out, grid);
           },
           "chain"_a, "x"_a, "out"_a.none(), "grid"_a.none() = nb::none())
      .def("__call__", &RowsRun::run, "threads"_a = 1);
}

}  // namespace host
