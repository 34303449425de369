// SPDX-License-Identifier: MIT
#include "bind/tensor_view.h"

#include <limits>
#include <string>

namespace tsl::bind {
namespace {

DType dtype_of(const dlpack::DataType& type) {
  const auto is = [&](dlpack::TypeCode code, int bits) {
    return type.code == code && type.bits == bits && type.lanes == 1;
  };
  if (is(dlpack::kFloat, 32)) return DType::kFloat32;
  if (is(dlpack::kFloat, 64)) return DType::kFloat64;
  if (is(dlpack::kBFloat, 16)) return DType::kBFloat16;
  if (is(dlpack::kFloat, 16)) return DType::kFloat16;
  if (is(dlpack::kInt, 32)) return DType::kInt32;
  if (is(dlpack::kInt, 64)) return DType::kInt64;
  if (is(dlpack::kUInt, 8)) return DType::kUInt8;
  if (is(dlpack::kBool, 8)) return DType::kBool;
  throw TypeError(
      message("torchsparse_lite: tensor must have dtype float32, float64, bfloat16, "
              "float16, int32, int64, uint8 or bool, got DLPack type code ",
              int{type.code}, " with ", int{type.bits}, " bits. Convert it with .to()."));
}

bool is_row_major(const dlpack::Tensor& tensor) {
  if (!tensor.strides) return true;
  for (int i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] == 0) return true;  // nothing is read, whatever the strides say
  }
  int64_t expected = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

std::string listed(const int64_t* values, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) {
    text += (i ? ", " : "") + (values[i] < 0 ? std::string("*") : std::to_string(values[i]));
  }
  return text + ")";
}

/// Page-locked memory is the CPU's.
std::string device_name(int32_t type) {
  if (type == dlpack::kCpu || type == dlpack::kCudaHost) return "cpu";
  if (type == dlpack::kCuda) return "cuda";
  return message("device type ", type, " of DLPack");
}

TensorView view_of(const dlpack::Tensor& tensor) {
  TSL_CHECK(tensor.ndim <= kMaxDims, ValueError, "torchsparse_lite: tensor must have at most ",
            kMaxDims, " dimensions, got ", tensor.ndim, ". Reshape it.");
  TSL_CHECK(is_row_major(tensor), ValueError,
            "torchsparse_lite: tensor must be contiguous, got shape ",
            listed(tensor.shape, tensor.ndim), " with strides ",
            listed(tensor.strides, tensor.ndim), ". Call .contiguous() on it.");
  TensorView view;
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.dtype = dtype_of(tensor.dtype);
  view.device = tensor.device;
  view.ndim = tensor.ndim;
  for (int i = 0; i < tensor.ndim; ++i) view.shape[static_cast<size_t>(i)] = tensor.shape[i];
  return view;
}

/// torch >= 2.10 publishes a C table on the type; null where there is none.
const dlpack::ExchangeApi* exchange_api(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type = nullptr;
    const dlpack::ExchangeApi* api = nullptr;
  };
  static Known known[2];  // a call takes both tensors and parameters
  static int oldest = 0;
  for (const Known& one : known) {
    if (one.type == type) return one.api;
  }
  const dlpack::ExchangeApi* found = nullptr;
  const py::handle type_object(reinterpret_cast<PyObject*>(type));
  const py::object capsule = py::getattr(type_object, dlpack::kApiAttribute, py::none());
  if (!capsule.is_none()) {
    void* const pointer = PyCapsule_GetPointer(capsule.ptr(), dlpack::kApiCapsule);
    if (!pointer) throw py::error_already_set();
    found = static_cast<const dlpack::ExchangeApi*>(pointer);
    while (found && found->version.major != dlpack::kMajorVersion) found = found->previous;
    if (found && !found->tensor_from_object) found = nullptr;
  }
  const py::object forgotten =
      py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(known[oldest].type));
  known[oldest] = {type, found};
  type_object.inc_ref();  // a class that is kept here is not collected
  oldest = 1 - oldest;
  return found;
}

TensorView view_through_capsule(py::handle tensor) {
  const py::object to_dlpack = py::module_::import("torch.utils.dlpack").attr("to_dlpack");
  const py::object detached = tensor.attr("detach")();
  const py::object capsule = to_dlpack(detached);
  void* const managed = PyCapsule_GetPointer(capsule.ptr(), dlpack::kTensorCapsule);
  if (!managed) throw py::error_already_set();
  return view_of(static_cast<const dlpack::ManagedTensor*>(managed)->tensor);
}

}  // namespace

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUInt8:
      return "uint8";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

TensorView view_of(py::handle tensor) {
  if (const dlpack::ExchangeApi* const api = exchange_api(Py_TYPE(tensor.ptr()))) {
    dlpack::Tensor description{};
    if (api->tensor_from_object(tensor.ptr(), &description) != 0) throw py::error_already_set();
    return view_of(description);
  }
  TSL_CHECK(py::hasattr(tensor, "__dlpack__"), TypeError,
            "torchsparse_lite: argument must be a torch.Tensor, got ",
            std::string(py::str(py::type::of(tensor).attr("__name__"))), ". Pass a tensor.");
  return view_through_capsule(tensor);
}

void* current_stream(const TensorView& view) {
  const py::object tensor_type = py::module_::import("torch").attr("Tensor");
  if (const dlpack::ExchangeApi* const api =
          exchange_api(reinterpret_cast<PyTypeObject*>(tensor_type.ptr()))) {
    void* stream = nullptr;
    if (api->current_work_stream(view.device.type, view.device.id, &stream) != 0) {
      throw py::error_already_set();
    }
    return stream;
  }
  const py::object stream =
      py::module_::import("torch").attr("cuda").attr("current_stream")(view.device.id);
  return reinterpret_cast<void*>(stream.attr("cuda_stream").cast<uintptr_t>());
}

const TensorView& TensorView::expect(const char* argument, DType wanted,
                                     std::initializer_list<int64_t> extents,
                                     dlpack::DeviceType wanted_device) const {
  TSL_CHECK(dtype == wanted, TypeError, argument, " must have dtype ", name_of(wanted), ", got ",
            name_of(dtype), ". Convert it with .to().");
  bool fits = ndim == static_cast<int>(extents.size());
  for (int i = 0; fits && i < ndim; ++i) {
    const int64_t extent = extents.begin()[i];
    fits = extent < 0 || extent == shape[static_cast<size_t>(i)];
  }
  TSL_CHECK(fits, ValueError, argument, " must have shape ",
            listed(extents.begin(), static_cast<int>(extents.size())), ", got ",
            listed(shape.data(), ndim), ". Check what was passed.");
  const bool on_device = device.type == wanted_device ||
                         (wanted_device == dlpack::kCpu && device.type == dlpack::kCudaHost);
  TSL_CHECK(on_device, ValueError, argument, " must be on ", device_name(wanted_device), ", got ",
            device_name(device.type), ". Move it with .to().");
  return *this;
}

const Coord* TensorView::coords(const char* argument, dlpack::DeviceType wanted_device) const {
  expect(argument, DType::kInt32, {-1, 4}, wanted_device);
  TSL_CHECK(shape[0] <= std::numeric_limits<int32_t>::max(), ValueError, argument,
            " must have fewer than 2^31 rows, got ", shape[0], ". Split the cloud.");
  return static_cast<const Coord*>(data);
}

}  // namespace tsl::bind
