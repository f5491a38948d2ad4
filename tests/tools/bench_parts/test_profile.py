"""Operations and kernels are counted as what they do."""

import pytest

from tools.bench_parts.profile import REST, kind


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("aten::convolution_backward", "convolutions"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolutions"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized>", "convolutions"),
        ("nvjet_tst_128x64_64x8_1x2_h_bz_coopA_TNT", "linear layers, matrix products"),
        ("aten::addmm", "linear layers, matrix products"),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<float>", "batch normalisation"),
        ("void cudnn::bn_fw_tr_1C11_singleread", "batch normalisation"),
        ("triton_red_fused__native_batch_norm_legit_relu_3", "made by torch.compile"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "exchange between ranks"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedSgdMathFunctor>",
         "optimizer, norm of the gradient"),
        ("strong_kernel", "views"),
        ("aten::threshold_backward", "ReLU"),
        ("Memcpy HtoD (Pinned -> Device)", "copies, other types, zeros"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "sums, products"),
        ("aten::log_softmax", REST),
    ],
)  # fmt: skip
def test_kind(name, what):
    assert kind(name) == what
