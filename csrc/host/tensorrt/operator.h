// What an operator is to TensorRT, without TensorRT: its ports and fields, what it refuses, its scratch
// memory, its run. plugin.cc puts all operators behind the interfaces of NvInfer.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../checks.h"
#include "bitcompress/cuda.h"

namespace trt {

using host::product;
using host::Refused;
using host::require;
using host::Shape;
using host::text;

void check(bc_status status, const char* what);

enum class Kind { real, bytes, parameter };
enum class FieldKind { whole, wholes, real };

struct Port {
  const char* name;
  Kind kind;
  bool required;
};

struct Field {
  const char* name;
  FieldKind kind;
  bool required;
  double fallback;
};

struct Schema {
  const char* name;
  const Port* ports;
  int port_count;
  const Field* fields;
  int field_count;

  int port(const char* name) const;
  const Field& field(const char* name) const;
};

#include "operators.inc"

// The values of a node's fields, in the order of the schema; empty where one does not stand.
struct Value {
  std::vector<int32_t> wholes;
  std::vector<float> reals;
};

class Fields {
 public:
  explicit Fields(const Schema& schema) : schema_(&schema), values_(static_cast<size_t>(schema.field_count)) {}

  const Schema& schema() const { return *schema_; }
  Value& value(int i) { return values_[static_cast<size_t>(i)]; }
  const Value& value(int i) const { return values_[static_cast<size_t>(i)]; }
  // Refuses a required field that is missing.
  void check() const;

  int64_t whole(const char* name, int64_t least, int64_t most) const;
  // A finite number.
  float real(const char* name) const;
  Shape wholes(const char* name) const;
  // So many of them, each within bounds; the fallback for all where the field does not stand.
  Shape wholes(const char* name, size_t count, int64_t least, int64_t most) const;

 private:
  const Value& named(const char* name) const;
  const Schema* schema_;
  std::vector<Value> values_;
};

struct Tensor {
  bool there = false;
  const void* data = nullptr;
  bc_cuda_type type = BC_CUDA_FLOAT32;
  Shape shape;

  bc_cuda_numbers numbers() const { return {data, type, product(shape)}; }
  int64_t axis(int64_t from_last) const { return shape[shape.size() - static_cast<size_t>(from_last)]; }
};

// The inputs of a node, one for each port.
class Inputs {
 public:
  Inputs(const Schema& schema, std::vector<Tensor> tensors) : schema_(&schema), tensors_(std::move(tensors)) {}
  const Tensor& operator[](int port) const { return tensors_[static_cast<size_t>(port)]; }
  const Tensor& operator[](const char* port) const { return (*this)[schema_->port(port)]; }
  // The numbers of a port; null where it is not connected.
  bc_cuda_numbers numbers(const char* port) const;
  // Those of gain or shift of a norm of x, one a channel.
  bc_cuda_numbers channels(const char* port, int64_t count) const;

 private:
  const Schema* schema_;
  std::vector<Tensor> tensors_;
};

struct Target {
  void* out;
  bc_cuda_type type;
};

class Operator {
 public:
  virtual ~Operator() = default;
  // A size of the output: `value`, or that of an axis of an input, or so many steps of a kernel along it:
  // (size + value) / divide + 1.
  struct Axis {
    enum Kind { constant, input, steps } kind;
    int port, axis;
    int64_t value, divide;
  };
  virtual std::vector<Axis> axes(const std::vector<int>& ranks) const = 0;
  // Bytes of scratch memory; refuses inputs whose shapes do not fit.
  virtual int64_t scratch(const Inputs& inputs, const Target& to) const = 0;
  virtual void run(const Inputs& inputs, const Target& to, void* scratch, void* stream) const = 0;
};

// The operator of a node with these fields; refuses what they cannot be.
std::unique_ptr<Operator> make(const Fields& fields);

std::unique_ptr<Operator> make_layer(const Fields& fields);
std::unique_ptr<Operator> make_matmul(const Fields& fields);
std::unique_ptr<Operator> make_attention(const Fields& fields);
std::unique_ptr<Operator> make_rows(const Fields& fields);
std::unique_ptr<Operator> make_unit(const Fields& fields);
std::unique_ptr<Operator> make_pixel_mean(const Fields& fields);
std::unique_ptr<Operator> make_group_norm(const Fields& fields);

// The axes of an output that is as large as the input of port 0.
std::vector<Operator::Axis> axes_like_first(const std::vector<int>& ranks);

}  // namespace trt
