//! The kernels that a host backend needs, as a trait with two implementations.

use moeflux_kernels::{
    AttentionShape, AttentionSpan, Blocks, CompressShape, CompressSpan, ConvSpan, Cpu, DeltaShape,
    DeltaSpan, Entries, Glu, GroupedRouting, HeadRows, IndexShape, IndexSpan, KernelError, KvPage,
    MatmulJob, Matrix, Piece, Quantized, RopeStyle, Rounding, Settled, StreamRule, reference,
};

/// The plain serial kernels: the specification of every result's bits.
pub struct Reference;

/// Declares the trait, and forwards it to [`Cpu`]'s methods and to the reference's functions.
macro_rules! kernel_set {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {
        /// Kernels of one kind; each method is specified by the function of that name in
        /// [`moeflux_kernels::reference`].
        pub trait KernelSet: Send {
            $($(#[$doc])* #[allow(missing_docs)]
            fn $name(&self, $($arg: $type),*) -> Result<(), KernelError>;)*
            /// Keeps the calling thread where it computes best while the result lives.
            fn settle(&self) -> Settled;
            /// Rounds activations `[n, cols]` to 8 bits as the weights want it.
            fn quantize(
                &self, into: &mut Quantized, x: &[f32], n: usize, cols: usize, rounding: Rounding,
            ) -> Result<(), KernelError>;
            /// Products of inputs with matrices, all of them at once.
            fn matmul(&self, jobs: &mut [MatmulJob<'_>]) -> Result<(), KernelError>;
        }

        impl KernelSet for Cpu {
            $(fn $name(&self, $($arg: $type),*) -> Result<(), KernelError> {
                Cpu::$name(self, $($arg),*)
            })*
            fn settle(&self) -> Settled {
                self.pool().settle()
            }
            fn quantize(
                &self, into: &mut Quantized, x: &[f32], n: usize, cols: usize, rounding: Rounding,
            ) -> Result<(), KernelError> {
                into.quantize(self, x, n, cols, rounding)
            }
            fn matmul(&self, jobs: &mut [MatmulJob<'_>]) -> Result<(), KernelError> {
                Cpu::matmul(self, jobs)
            }
        }

        impl KernelSet for Reference {
            $(fn $name(&self, $($arg: $type),*) -> Result<(), KernelError> {
                reference::$name($($arg),*)
            })*
            fn settle(&self) -> Settled {
                Settled::free()
            }
            fn quantize(
                &self, into: &mut Quantized, x: &[f32], n: usize, cols: usize, rounding: Rounding,
            ) -> Result<(), KernelError> {
                *into = reference::quantize(x, n, cols, rounding)?;
                Ok(())
            }
            fn matmul(&self, jobs: &mut [MatmulJob<'_>]) -> Result<(), KernelError> {
                reference::matmul(jobs)
            }
        }
    };
}

kernel_set! {
    fn decode_row(matrix: &Matrix<'_>, row: usize, out: &mut [f32]);
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
    fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
    fn rms_normalize(x: &[f32], dim: usize, eps: f32, out: &mut [f32]);
    fn rms_norm_pieces(x: &[f32], weight: &[f32], dim: usize, eps: f32, out: &mut [f32]);
    fn rms_norm_gated(x: &[f32], gate: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
    fn rope(
        x: &[f32], positions: &[u32], heads: usize, head_dim: usize, inv_freq: &[f32],
        attention_scale: f32, style: RopeStyle, out: &mut [f32],
    );
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]);
    fn glu(gate: &[f32], up: &[f32], rule: Glu, out: &mut [f32]);
    fn sigmoid_mul(x: &[f32], gate: &[f32], out: &mut [f32]);
    fn scale_by_sigmoid(x: &[f32], gate: &[f32], out: &mut [f32]);
    fn add(a: &[f32], b: &[f32], out: &mut [f32]);
    fn add_bias(x: &[f32], bias: &[f32], out: &mut [f32]);
    fn add_to_rows(x: &mut [f32], bias: &[f32]);
    fn rearrange(inputs: &[&[f32]], pieces: &[Piece], out: &mut [f32]);
    fn head_matmul(weights: &Matrix<'_>, x: &[f32], shape: HeadRows, out: &mut [f32]);
    fn split_pairs(
        x: &[f32], heads: usize, dim: usize, first: &mut [f32], second: &mut [f32],
    );
    fn conv1d_silu(spans: &mut [ConvSpan<'_>], weight: &[f32], channels: usize);
    fn gated_delta(
        spans: &mut [DeltaSpan<'_>], shape: DeltaShape, a_log: &[f32], dt_bias: &[f32],
    );
    fn kv_append(pages: &mut [KvPage], start: usize, k: &[f32], v: &[f32]);
    fn attention(
        spans: &mut [AttentionSpan<'_>], shape: AttentionShape, sinks: Option<&[f32]>,
    );
    fn sparse_attention(
        spans: &mut [AttentionSpan<'_>], entries: &[Entries<'_>], shape: AttentionShape,
        sinks: Option<&[f32]>,
    );
    fn block_attention(
        spans: &mut [AttentionSpan<'_>], blocks: &[Blocks<'_>], shape: AttentionShape,
    );
    fn compress(spans: &mut [CompressSpan<'_>], shape: CompressShape, bias: &[f32]);
    fn choose_entries(spans: &mut [IndexSpan<'_>], shape: IndexShape);
    fn stream_weights(
        projected: &[f32], scale: &[f32], base: &[f32], rule: StreamRule, out: &mut [f32],
    );
    fn mean_streams(x: &[f32], streams: usize, dim: usize, out: &mut [f32]);
    fn collapse_streams(x: &[f32], weights: &[f32], rule: StreamRule, out: &mut [f32]);
    fn spread_streams(
        x: &[f32], block: &[f32], weights: &[f32], rule: StreamRule, out: &mut [f32],
    );
    fn scaled_silu(x: &[f32], divisor: f32, out: &mut [f32]);
    fn mix_streams(x: &[f32], gates: &[f32], streams_and_dim: (usize, usize), out: &mut [f32]);
    fn inject_streams(
        x: &[f32], block: &[f32], weights: &[f32], streams: usize, out: &mut [f32],
    );
    fn gate_streams(
        keys: &[f32], queries: &[f32], values: &[f32], streams_and_dim: (usize, usize),
        out: &mut [f32],
    );
    fn route(
        logits: &[f32], experts: usize, top_k: usize, renormalize: bool, ids: &mut [u32],
        weights: &mut [f32],
    );
    fn route_grouped(
        logits: &[f32], bias: Option<&[f32]>, rule: &GroupedRouting, ids: &mut [u32],
        weights: &mut [f32],
    );
    fn route_by_token(
        logits: &[f32], tokens: &[u32], table: &[f32], rule: &GroupedRouting, ids: &mut [u32],
        weights: &mut [f32],
    );
    fn combine(
        rows: &[f32], offsets: &[u32], entries: &[(u32, f32)], width: usize, out: &mut [f32],
    );
}
