//! The operations, one file each, with its WGSL beside it. Each is specified by the function of the
//! same name in [`moeflux_kernels::reference`].

mod elementwise;
mod embed;
mod matvec;

pub use embed::embed;
pub use matvec::matvec;
pub use elementwise::{add, scale_by_sigmoid, sigmoid_mul, swiglu};

use crate::Shader;

/// Every kernel with each set of parameters that operations use, for checking translations.
pub fn all_kernels() -> Vec<(&'static Shader, Vec<Vec<crate::Param>>)> {
    vec![elementwise::kernels()]
}

/// Workgroups `[x, y, 1]` for `count` of them in a row; the kernel's number is
/// `id.x + id.y * groups.x`, and those from `count` on have nothing to do.
pub(crate) fn grid(count: u32) -> [u32; 3] {
    const WIDTH: u32 = 32_768;
    match count {
        0 => [0, 0, 0],
        n if n <= WIDTH => [n, 1, 1],
        n => [WIDTH, n.div_ceil(WIDTH), 1],
    }
}
