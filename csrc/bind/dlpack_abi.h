// SPDX-License-Identifier: MIT
// The part of the DLPack C ABI (version 1) that we read: a tensor description and the table of
// functions through which torch hands one out. Layout facts only; see dmlc/dlpack for the standard.
#pragma once

#include <cstdint>

namespace tsl::bind::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr const char* kApiAttribute = "__dlpack_c_exchange_api__";
constexpr const char* kApiCapsule = "dlpack_exchange_api";
constexpr const char* kTensorCapsule = "dltensor";

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4, kBool = 6 };

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means row-major
  uint64_t byte_offset;
};

/// What a "dltensor" capsule holds; the tensor comes first.
struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor* self);
};

struct Version {
  uint32_t major;
  uint32_t minor;
};

/// All functions return 0 on success, -1 with a Python error set otherwise.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_object;
  void* managed_tensor_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // borrowed view; may be null
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace tsl::bind::dlpack
