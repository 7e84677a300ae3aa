// PReLU with one slope a channel, forward and backward in one pass over memory each.
//
// The layer is bound by memory traffic: in a step the form made of TensorFlow's operations reads or writes as many values
// as eighteen maps of activations hold, these as five. Rows are worked through in blocks of fixed size, whose sums are
// added in order, so results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

// One build serves every processor of the family: the loader takes the widest form that this one can run.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDEST __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define WIDEST
#endif
#define INLINED inline __attribute__((always_inline))

namespace facetrain {

using tensorflow::bfloat16;
using tensorflow::DEVICE_CPU;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

constexpr int64_t kBlockElements = 32768;

// A bfloat16 is the upper half of a float32.
inline float Widen(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

// Rounds to the nearest, ties to even; a NaN stays one.
inline uint16_t Narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

inline float Widen(float value) { return value; }
inline void Store(float value, float* target) { *target = value; }
inline void Store(float value, uint16_t* target) { *target = Narrow(value); }

// The products are computed everywhere and then chosen from: a choice can be vectorised, a branch cannot. `outputs` may
// be one of the inputs, at the same places.
template <typename T>
INLINED void ForwardRows(const T* x, const float* slopes, int64_t rows, int64_t channels, T* outputs) {
  for (int64_t row = 0; row < rows; ++row) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      const float value = Widen(x[c]);
      const float scaled = slopes[c] * value;
      Store(value > 0.0f ? value : scaled, outputs + c);
    }
    x += channels;
    outputs += channels;
  }
}

template <typename T>
INLINED void BackwardRows(const T* upstream, const T* x, const float* slopes, int64_t rows, int64_t channels, T* to_x,
                          float* to_slopes) {
  std::fill(to_slopes, to_slopes + channels, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      const float value = Widen(x[c]);
      const float incoming = Widen(upstream[c]);
      const float scaled = slopes[c] * incoming;
      const float product = value * incoming;
      to_slopes[c] += value > 0.0f ? 0.0f : product;
      Store(value > 0.0f ? incoming : scaled, to_x + c);
    }
    x += channels;
    upstream += channels;
    to_x += channels;
  }
}

WIDEST void Forward(const float* x, const float* slopes, int64_t rows, int64_t channels, float* outputs) {
  ForwardRows(x, slopes, rows, channels, outputs);
}

WIDEST void Forward(const uint16_t* x, const float* slopes, int64_t rows, int64_t channels, uint16_t* outputs) {
  ForwardRows(x, slopes, rows, channels, outputs);
}

WIDEST void Backward(const float* upstream, const float* x, const float* slopes, int64_t rows, int64_t channels,
                     float* to_x, float* to_slopes) {
  BackwardRows(upstream, x, slopes, rows, channels, to_x, to_slopes);
}

WIDEST void Backward(const uint16_t* upstream, const uint16_t* x, const float* slopes, int64_t rows, int64_t channels,
                     uint16_t* to_x, float* to_slopes) {
  BackwardRows(upstream, x, slopes, rows, channels, to_x, to_slopes);
}

template <typename T>
struct Storage {
  using Type = T;
};
template <>
struct Storage<bfloat16> {
  using Type = uint16_t;
};

template <typename T>
const typename Storage<T>::Type* Read(const Tensor& tensor) {
  return reinterpret_cast<const typename Storage<T>::Type*>(tensor.flat<T>().data());
}

template <typename T>
typename Storage<T>::Type* Write(Tensor* tensor) {
  return reinterpret_cast<typename Storage<T>::Type*>(tensor->flat<T>().data());
}

// The activations as rows of channels, cut into blocks.
struct Blocks {
  int64_t channels, rows, size, count;

  explicit Blocks(const Tensor& x) {
    channels = x.dim_size(x.dims() - 1);
    rows = channels == 0 ? 0 : x.NumElements() / channels;
    size = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, channels));
    count = (rows + size - 1) / size;
  }

  int64_t RowsOf(int64_t block) const { return std::min(size, rows - block * size); }
};

Status CheckShapes(const Tensor& x, const Tensor& slopes) {
  if (x.dims() < 1 || slopes.dims() != 1 || slopes.dim_size(0) != x.dim_size(x.dims() - 1)) {
    return InvalidArgument("PReLU needs one slope for each channel, received inputs ", x.shape().DebugString(),
                           " and slopes ", slopes.shape().DebugString());
  }
  return tensorflow::OkStatus();
}

template <typename T>
std::vector<float> WideSlopes(const Tensor& slopes) {
  const auto* values = Read<T>(slopes);
  std::vector<float> wide(slopes.NumElements());
  for (size_t c = 0; c < wide.size(); ++c) wide[c] = Widen(values[c]);
  return wide;
}

template <typename Work>
void OverBlocks(OpKernelContext* context, const Blocks& blocks, const Work& work) {
  const auto* pool = context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(pool->num_threads, pool->workers, blocks.count, kBlockElements, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) work(block, block * blocks.size * blocks.channels);
  });
}

template <typename T>
class PreluOp : public OpKernel {
 public:
  explicit PreluOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES_OK(context, CheckShapes(x, context->input(1)));
    Tensor* outputs = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &outputs));
    const std::vector<float> slopes = WideSlopes<T>(context->input(1));
    const Blocks blocks(x);
    const auto* from = Read<T>(x);
    auto* to = Write<T>(outputs);
    OverBlocks(context, blocks, [&](int64_t block, int64_t start) {
      Forward(from + start, slopes.data(), blocks.RowsOf(block), blocks.channels, to + start);
    });
  }
};

template <typename T>
class PreluGradOp : public OpKernel {
 public:
  explicit PreluGradOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& upstream = context->input(0);
    const Tensor& x = context->input(1);
    OP_REQUIRES_OK(context, CheckShapes(x, context->input(2)));
    OP_REQUIRES(context, upstream.shape() == x.shape(),
                InvalidArgument("the gradient of a PReLU must be shaped as its inputs, received ",
                                upstream.shape().DebugString(), " and ", x.shape().DebugString()));
    Tensor *to_x = nullptr, *to_slopes = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &to_x));
    OP_REQUIRES_OK(context, context->allocate_output(1, context->input(2).shape(), &to_slopes));
    const std::vector<float> slopes = WideSlopes<T>(context->input(2));
    const Blocks blocks(x);
    std::vector<float> sums(blocks.count * blocks.channels);
    const auto* incoming = Read<T>(upstream);
    const auto* inputs = Read<T>(x);
    auto* outgoing = Write<T>(to_x);
    OverBlocks(context, blocks, [&](int64_t block, int64_t start) {
      Backward(incoming + start, inputs + start, slopes.data(), blocks.RowsOf(block), blocks.channels,
               outgoing + start, sums.data() + block * blocks.channels);
    });
    std::vector<double> totals(blocks.channels, 0.0);
    for (auto sum = sums.begin(); sum != sums.end();) {
      for (double& total : totals) total += *sum++;
    }
    auto* target = Write<T>(to_slopes);
    for (int64_t c = 0; c < blocks.channels; ++c) Store(static_cast<float>(totals[c]), target + c);
  }
};

REGISTER_OP("FacetrainPrelu")
    .Input("inputs: T")
    .Input("slopes: T")
    .Output("outputs: T")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

REGISTER_OP("FacetrainPreluGrad")
    .Input("upstream: T")
    .Input("inputs: T")
    .Input("slopes: T")
    .Output("to_inputs: T")
    .Output("to_slopes: T")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(1));
      context->set_output(1, context->input(2));
      return tensorflow::OkStatus();
    });

#define REGISTER(T)                                                                                     \
  REGISTER_KERNEL_BUILDER(Name("FacetrainPrelu").Device(DEVICE_CPU).TypeConstraint<T>("T"), PreluOp<T>); \
  REGISTER_KERNEL_BUILDER(Name("FacetrainPreluGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"), PreluGradOp<T>)
REGISTER(float);
REGISTER(bfloat16);

}  // namespace facetrain
