// What operators see of ONNX Runtime: attributes, initialisers, inputs, an output, its threads.
//
// Everything here checks what it is given and throws Refused with a sentence; library.cc turns that
// into a status. Nothing else is thrown across the border.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../checks.h"
#include "abi.h"
#include "bitcompress/bits.h"

namespace ort {

using host::product;
using host::Refused;
using host::require;
using host::Shape;
using host::text;

// Throws what a status means; `what` says of which call.
void check(bc_status status, const char* what);

enum class Kind { real, number, bytes, parameter };
enum class Count { one, optional };

struct Port {
  const char* name;
  Kind kind;
  Count count;
};

struct Attribute {
  const char* name;
  bool required;
  double fallback;
};

struct Schema {
  const char* name;
  const Port* inputs;
  size_t input_count;
  const Attribute* attributes;
  size_t attribute_count;
  bool codes;  // whether the output is uint8

  size_t port(const char* name) const;
  const Attribute& attribute(const char* name) const;
};

struct Tensor {
  const void* data = nullptr;
  ElementType type = kUndefined;
  Shape shape;

  const float* reals() const { return static_cast<const float*>(data); }
  int64_t axis(int64_t from_last) const { return shape[shape.size() - from_last]; }
};

// The node that a kernel is made for.
class Info {
 public:
  Info(const Api& api, const KernelInfo* info, const Schema& schema)
      : api_(api), info_(info), schema_(schema) {}

  int64_t integer(const char* name, int64_t least, int64_t most) const;
  // A finite number.
  float real(const char* name) const;
  // Empty where the attribute does not stand and need not.
  Shape integers(const char* name) const;
  // So many of them, each within the bounds; `fallback` for all where the attribute does not stand.
  Shape integers(const char* name, size_t count, int64_t least, int64_t most,
                 std::optional<int64_t> fallback = std::nullopt) const;
  // An initialiser; it lives as long as the session. Refuses what changes from run to run.
  Tensor constant(const char* port) const;
  std::optional<Tensor> optional_constant(const char* port) const;
  // Its numbers as float32, of the given count or, where that is -1, any.
  std::vector<float> parameter(const char* port, int64_t count = -1) const;
  std::optional<std::vector<float>> optional_parameter(const char* port, int64_t count) const;

  const Schema& schema() const { return schema_; }
  // The optional initialisers that were not found. A run refuses them where they are connected after all:
  // what changes from run to run is not left out without a word.
  const std::vector<size_t>& left_out() const { return left_out_; }

 private:
  std::vector<float> numbers(const char* port, const Tensor& tensor, int64_t count) const;
  // An attribute that cannot be read as what it should be: refused where it must stand, or stands as another type.
  void refuse_unread(const Attribute& attribute) const;

  const Api& api_;
  const KernelInfo* info_;
  const Schema& schema_;
  mutable std::vector<size_t> left_out_;
};

// One run of a node.
class Context {
 public:
  Context(const Api& api, KernelContext* context, const Schema& schema)
      : api_(api), context_(context), schema_(schema) {}

  size_t inputs() const;
  // Input number i, of float32.
  Tensor real(size_t i) const;
  // Likewise, or of uint8 where it holds codes.
  Tensor number(size_t i) const;
  // Whether input number i is connected.
  bool has(size_t i) const;
  // float32, or uint8 where the operator gives codes.
  void* output(const Shape& shape) const;
  float* reals(const Shape& shape) const { return static_cast<float*>(output(shape)); }
  // Runs what calls of bits.h do inside on the threads of the session.
  template <class F>
  void with_threads(F&& call) const {
    const bc_pool pool{&Context::run, const_cast<Context*>(this)};
    struct Lent {
      explicit Lent(const bc_pool* pool) { bc_lend_pool(pool); }
      ~Lent() { bc_lend_pool(nullptr); }
    } lent(&pool);
    call();
  }
  // The most threads that a call may use.
  static int threads();

 private:
  static void run(void* self, bc_task task, void* context, int64_t count);
  Tensor input(size_t i) const;

  const Api& api_;
  KernelContext* context_;
  const Schema& schema_;
};

// A node made ready. It may run in several threads at once.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(const Context& context) const = 0;
};

using Maker = std::unique_ptr<Kernel> (*)(const Info&);

std::unique_ptr<Kernel> make_conv2d(const Info& info);
std::unique_ptr<Kernel> make_linear(const Info& info);
std::unique_ptr<Kernel> make_matmul(const Info& info);
std::unique_ptr<Kernel> make_attention(const Info& info);
std::unique_ptr<Kernel> make_windows(const Info& info);
std::unique_ptr<Kernel> make_layer_norm(const Info& info);
std::unique_ptr<Kernel> make_gelu(const Info& info);
std::unique_ptr<Kernel> make_sigmoid(const Info& info);
std::unique_ptr<Kernel> make_silu(const Info& info);
std::unique_ptr<Kernel> make_unit(const Info& info);
std::unique_ptr<Kernel> make_pixel_mean(const Info& info);
std::unique_ptr<Kernel> make_group_norm(const Info& info);

#include "operators.inc"

}  // namespace ort
