//! Matrix products: n tokens times any weights, several products in one parallel loop.

mod coded;
mod decode;
mod exact;
mod f8;
mod float;
mod heads;
mod panel;
mod quads;
mod scales;
mod unpack;

pub(crate) use f8::e4m3;
pub use f8::{F8, F8_BLOCK, F8Scales};
pub use heads::HeadRows;
pub(crate) use heads::check as check_heads;
pub(crate) use unpack::unpack;

use std::cell::RefCell;

use crate::{
    Cpu, KernelError, Matrix, MatrixData, Quantized, check,
    coding::TILE,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
};

/// Multiply-adds below which a parallel loop costs more than it saves.
const SMALL: usize = 1 << 16;
/// Tiles that a thread takes at once, at most.
const LONGEST: usize = 32;

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    coded: panel::Scratch,
    /// Decoded rows.
    decoded: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// One matrix product: `out[t] = weights * x[token t]`.
pub struct MatmulJob<'a> {
    /// The weights, `[rows, cols]`.
    pub weights: Matrix<'a>,
    /// The activations, `[n, cols]`.
    pub x: &'a [f32],
    /// `x` rounded as [`Matrix::rounding`] says; used by integer-coded weights only, which without
    /// it are multiplied in f32.
    pub quantized: Option<&'a Quantized>,
    /// Which rows of `x` to use, in this order, m of them; None: all n.
    pub tokens: Option<&'a [u32]>,
    /// The results, `[m, rows]`.
    pub out: &'a mut [f32],
}

impl MatmulJob<'_> {
    /// Checks all sizes; gives the number of result rows.
    pub(crate) fn check(&self) -> Result<usize, KernelError> {
        const OP: &str = "matmul";
        let (rows, cols) = (self.weights.rows(), self.weights.cols());
        let n = check::rows(OP, "x", self.x.len(), cols)?;
        if let (Some(quantized), Some(rounding)) = (self.quantized, self.weights.rounding()) {
            check::size(OP, "quantized tokens", n, quantized.n)?;
            check::size(OP, "quantized cols", cols, quantized.cols)?;
            check::size(
                OP,
                "quantized group",
                rounding.group,
                quantized.rounding.group,
            )?;
            let (zero, found) = (rounding.zero as usize, quantized.rounding.zero as usize);
            check::size(OP, "quantized zero", zero, found)?;
        }
        for &token in self.tokens.unwrap_or_default() {
            check::index(OP, "token", token as usize, n)?;
        }
        let m = self.tokens.map_or(n, <[u32]>::len);
        check::size(OP, "out", check::product(&[m, rows]), self.out.len())?;
        Ok(m)
    }
}

/// A checked job whose results may be written from several threads.
struct Product<'a> {
    weights: Matrix<'a>,
    x: &'a [f32],
    quantized: Option<&'a Quantized>,
    tokens: Option<&'a [u32]>,
    m: usize,
    out: Disjoint<'a, f32>,
    /// Tiles of the products before this one.
    first_tile: usize,
}

impl Product<'_> {
    /// The row of `x` that result row t uses.
    #[inline(always)]
    fn token(&self, t: usize) -> usize {
        self.tokens.map_or(t, |tokens| tokens[t] as usize)
    }

    /// Writes results of token t for rows from `row` on.
    ///
    /// # Safety
    /// Only the task that owns these rows may write them.
    #[inline(always)]
    unsafe fn write(&self, t: usize, row: usize, values: &[f32]) {
        // SAFETY: by the condition above, no other part overlaps.
        let out = unsafe { self.out.part(t * self.weights.rows() + row, values.len()) };
        out.copy_from_slice(values);
    }
}

/// The rows of a product of float weights that one task computes.
struct FloatRows<'a> {
    product: &'a Product<'a>,
    first: usize,
    end: usize,
    decoded: &'a mut Vec<f32>,
}

impl Kernel for FloatRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        float::rows(l, self.product, self.first, self.end, self.decoded);
    }
}

impl Cpu {
    /// Computes all products in one parallel loop, split by weight rows.
    ///
    /// Integer-coded weights with rounded activations use exact integer dot products; all others
    /// are float dot products.
    ///
    /// # Errors
    /// If an operand does not fit its job's weights; nothing is computed then.
    pub fn matmul(&self, jobs: &mut [MatmulJob<'_>]) -> Result<(), KernelError> {
        for job in jobs.iter() {
            job.check()?;
        }
        let (mut tiles, mut work) = (0, 0usize);
        let mut products = Vec::with_capacity(jobs.len());
        for job in jobs.iter_mut() {
            let (rows, cols) = (job.weights.rows(), job.weights.cols());
            let m = job.out.len() / rows;
            if m == 0 {
                continue;
            }
            products.push(Product {
                weights: job.weights,
                x: job.x,
                quantized: job.quantized,
                tokens: job.tokens,
                m,
                out: Disjoint::new(job.out),
                first_tile: tiles,
            });
            tiles += rows.div_ceil(TILE);
            work = work.saturating_add(check::product(&[rows, cols, m]));
        }
        // Short ranges keep the threads' streams close together and their ends even.
        let range = match work < SMALL {
            true => tiles.max(1),
            false => tiles.div_ceil(self.pool.threads() * 8).clamp(1, LONGEST),
        };
        self.pool.run(tiles.div_ceil(range), &|index| {
            let first = index * range;
            self.tiles(&products, first, (first + range).min(tiles));
        });
        Ok(())
    }

    /// Computes the tiles first .. end of the concatenated products.
    fn tiles(&self, products: &[Product<'_>], first: usize, end: usize) {
        let start = products.partition_point(|product| product.first_tile <= first);
        for product in &products[start.saturating_sub(1)..] {
            if product.first_tile >= end {
                return;
            }
            let first_row = first.saturating_sub(product.first_tile) * TILE;
            let end_row = ((end - product.first_tile) * TILE).min(product.weights.rows());
            if first_row < end_row {
                self.rows(product, first_row, end_row);
            }
        }
    }

    /// Computes some rows of a product, the first a multiple of 16.
    fn rows(&self, product: &Product<'_>, first: usize, end: usize) {
        // Outside of the kernels: the closure is compiled without their features.
        SCRATCH.with_borrow_mut(
            |scratch| match (product.weights.data(), product.quantized) {
                (MatrixData::Coded(weights), Some(x)) => {
                    let scratch = &mut scratch.coded;
                    coded::rows(
                        self.backend,
                        product,
                        &weights,
                        x,
                        first..end,
                        &mut scratch.tail,
                    );
                }
                (MatrixData::Coded(weights), None) => {
                    let scratch = &mut scratch.coded;
                    exact::rows(self.backend, product, &weights, first..end, scratch);
                }
                _ => self.backend.run(FloatRows {
                    product,
                    first,
                    end,
                    decoded: &mut scratch.decoded,
                }),
            },
        );
    }

    /// Decodes one row of a matrix to f32 (an embedding); integer-coded weights by
    /// fma(integer - zero, scale, bias).
    ///
    /// # Errors
    /// If the row is out of range or `out` is not one row long.
    pub fn decode_row(
        &self,
        matrix: &Matrix<'_>,
        row: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_row(matrix, row, out)?;
        self.backend.run(decode::DecodeRow { matrix, row, out });
        Ok(())
    }
}

/// Checks the arguments of `decode_row`.
pub(crate) fn check_row(matrix: &Matrix<'_>, row: usize, out: &[f32]) -> Result<(), KernelError> {
    const OP: &str = "decode_row";
    check::index(OP, "row", row, matrix.rows())?;
    check::size(OP, "out", matrix.cols(), out.len())
}
