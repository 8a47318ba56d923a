"""Which operators are not counted, and why: they move values, or do arithmetic without multiplying matrices."""

from gracile.graph import Node


def is_scalar(node: Node) -> bool:
    """Whether the node is Python's own arithmetic with sizes."""
    return node.output is None and "." not in node.op


# Operators that only move, make, compare or rename values.
MOVEMENT = frozenset(
    """
    adjoint alias alpha_dropout __and__ arange argmax argmin argsort as_strided _assert_async _assert_scalar
    _assert_tensor_metadata assert_tensor_metadata atleast_1d atleast_2d atleast_3d bernoulli bitwise_and
    bitwise_not bitwise_or bitwise_xor broadcast_tensors broadcast_to bucketize cartesian_prod cat
    channel_shuffle chunk clone col2im column_stack complex constant_pad_nd contiguous copy detach diag
    diag_embed diagonal dropout dstack embedding empty empty_like eq expand expand_as exponential eye
    feature_dropout fill flatten flip fliplr flipud full full_like gather ge getitem gt hstack im2col imag index
    index_copy index_fill index_put index_select isclose isfinite isin isinf isnan item le lift_fresh_copy
    linspace logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter masked_select matrix_H
    max_unpool2d meshgrid mH moveaxis movedim mT narrow native_channel_shuffle native_dropout ne new_empty
    new_full new_ones new_tensor new_zeros nonzero normal numpy_T one_hot ones ones_like __or__ pad permute
    pixel_shuffle pixel_unshuffle rand rand_like randint randint_like randn randn_like randperm ravel real
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg roll rot90 scalar_tensor
    scatter searchsorted select select_scatter slice slice_scatter sort split split_with_sizes squeeze
    squeeze_copy stack swapaxes swapdims sym_size t take take_along_dim tensor_split tile to _to_copy topk
    transpose tril tril_indices triu triu_indices type_as unbind unflatten unfold uniform unsafe_chunk
    unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d view view_as view_as_complex view_as_real view_copy
    vstack where __xor__ zero zeros zeros_like
    """.split()
)


# Operators whose arithmetic is element-wise, a reduction or a normalisation.
ARITHMETIC = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d add addcdiv addcmul addr affine_grid_generator all amax amin aminmax
    any asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d batch_norm binary_cross_entropy
    binary_cross_entropy_with_logits ceil celu clamp clamp_max clamp_min clip cos cosh cosine_similarity
    count_nonzero cross_entropy_loss cummax cummin cumprod cumsum diff digamma div divide elu embedding_bag erf
    erfc erfinv exp exp2 expm1 floor floor_divide fmax fmin fmod frac gelu ger glu grid_sampler group_norm
    hardshrink hardsigmoid hardswish hardtanh heaviside histc huber_loss hypot index_add index_reduce
    instance_norm kl_div kron l1_loss layer_norm leaky_relu lerp lgamma linalg_matrix_norm linalg_norm
    linalg_vecdot linalg_vector_norm log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2
    logcumsumexp logit logsumexp max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices maximum mean median min minimum mish mse_loss mul multiply nan_to_num
    nanmean nansum neg negative nll_loss nll_loss_nd norm outer pairwise_distance polygamma pow prelu prod
    reciprocal relu relu6 remainder rms_norm round rrelu rsqrt rsub scatter_add scatter_reduce selu sgn sigmoid
    sign silu sin sinc sinh smooth_l1_loss softmax softplus softshrink softsign special_erf special_expit
    special_log1p special_xlogy sqrt square std std_mean sub subtract sum tan tanh threshold trapezoid
    true_divide trunc upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_trilinear3d var var_mean _weight_norm xlogy
    """.split()
)
