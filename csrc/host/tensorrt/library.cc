// The creators, the log, and the two functions by which TensorRT finds them.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "plugin.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace trt {

using namespace nvinfer1;

namespace {

std::atomic<ILoggerFinder*> g_finder{nullptr};

PluginFieldType field_type(FieldKind kind) {
  return kind == FieldKind::real ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
}

void read_field(const Field& field, const PluginField& given, Value* value) {
  const std::string name = std::string("the attribute ") + field.name;
  require(given.length >= 0 && (given.length == 0 || given.data != nullptr), name + " has no data");
  require(field.kind == FieldKind::wholes || given.length == 1,
          name + " has " + std::to_string(given.length) + " numbers, not one");
  if (field.kind == FieldKind::real) {
    require(given.type == PluginFieldType::kFLOAT32, name + " must be float32");
    value->reals.assign(static_cast<const float*>(given.data), static_cast<const float*>(given.data) + 1);
    return;
  }
  value->wholes.clear();
  for (int32_t i = 0; i < given.length; ++i) {
    if (given.type == PluginFieldType::kINT32) {
      value->wholes.push_back(static_cast<const int32_t*>(given.data)[i]);
    } else {
      require(given.type == PluginFieldType::kINT64, name + " must be of integers");
      const int64_t wide = static_cast<const int64_t*>(given.data)[i];
      require(wide == static_cast<int32_t>(wide), name + " holds " + std::to_string(wide));
      value->wholes.push_back(static_cast<int32_t>(wide));
    }
  }
}

}  // namespace

void set_logger(ILoggerFinder* finder) { g_finder = finder; }

void report(const std::string& sentence) {
  ILoggerFinder* const finder = g_finder;
  ILogger* const logger = finder == nullptr ? nullptr : finder->findLogger();
  if (logger != nullptr) {
    logger->log(ILogger::Severity::kERROR, sentence.c_str());
  } else {
    std::fprintf(stderr, "bitcompress: %s\n", sentence.c_str());
  }
}

Fields fields_of(const Schema& schema, const PluginFieldCollection* collection) {
  Fields fields(schema);
  const int32_t count = collection == nullptr ? 0 : collection->nbFields;
  for (int32_t i = 0; i < count; ++i) {
    const PluginField& given = collection->fields[i];
    for (int f = 0; f < schema.field_count; ++f) {
      if (given.name != nullptr && std::strcmp(given.name, schema.fields[f].name) == 0)
        read_field(schema.fields[f], given, &fields.value(f));
    }
  }
  return fields;
}

// Fields that do not stand are left out; whoever reads them back has the same fallbacks.
std::vector<PluginField> collected(const Fields& fields) {
  std::vector<PluginField> all;
  for (int f = 0; f < fields.schema().field_count; ++f) {
    const Field& field = fields.schema().fields[f];
    const Value& value = fields.value(f);
    if (!value.wholes.empty())
      all.emplace_back(field.name, value.wholes.data(), PluginFieldType::kINT32,
                       static_cast<int32_t>(value.wholes.size()));
    if (!value.reals.empty()) all.emplace_back(field.name, value.reals.data(), PluginFieldType::kFLOAT32, 1);
  }
  return all;
}

Creator::Creator(const Schema& schema, const char* space) : schema_(&schema), space_(space) {
  for (int i = 0; i < schema.field_count; ++i)
    names_.emplace_back(schema.fields[i].name, nullptr, field_type(schema.fields[i].kind), 1);
  collection_ = {static_cast<int32_t>(names_.size()), names_.data()};
}

IPluginV3* Creator::createPlugin(const AsciiChar*, const PluginFieldCollection* fields, TensorRTPhase) noexcept {
  try {
    return new Plugin(fields_of(*schema_, fields), space_);
  } catch (const std::exception& refused) {
    report(std::string(schema_->name) + ": " + refused.what());
    return nullptr;
  }
}

}  // namespace trt

EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { trt::set_logger(finder); }

// Each operator twice: parsers that do not look at the domain of a node look into the empty namespace.
EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static std::vector<std::unique_ptr<trt::Creator>> owned;
  static const std::vector<nvinfer1::IPluginCreatorInterface*> all = [] {
    std::vector<nvinfer1::IPluginCreatorInterface*> made;
    for (const trt::Schema& schema : trt::kSchemas) {
      for (const char* space : {trt::kDomain, ""}) {
        owned.push_back(std::make_unique<trt::Creator>(schema, space));
        made.push_back(owned.back().get());
      }
    }
    return made;
  }();
  count = static_cast<int32_t>(all.size());
  return all.data();
}
