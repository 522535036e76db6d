//! Experts computed to the processor's bits.

use moeflux_gpu::exactness::{experts_agree, scalar_functions_agree};
use moeflux_kernels::Coding;

use crate::recorder;

#[test]
fn experts_of_every_coding_have_the_processors_bits() {
    let (_, mut r) = recorder();
    assert!(
        scalar_functions_agree(&mut r).expect("it runs"),
        "scalar functions"
    );
    let mut codings = vec![
        (Coding::Q4_0, Coding::Q8_0),
        (Coding::Q8_0, Coding::Q4_0),
        (Coding::Q4K, Coding::Q6K),
        (Coding::Q5K, Coding::Q5K),
        (Coding::Q6K, Coding::Q4K),
        (Coding::Q2K, Coding::Q3K),
        (Coding::Q3K, Coding::Q2K),
        (Coding::Q4_1, Coding::Q5_1),
        (Coding::Q5_0, Coding::Iq4Xs),
        (Coding::Iq4Nl, Coding::Mxfp4),
        (Coding::Mxfp4, Coding::Q4_1),
        (Coding::Nvfp4, Coding::Mxfp4),
        (Coding::Q8_0, Coding::Nvfp4),
    ];
    let centered = |bits| Coding::Centered { bits, group: 64 };
    codings.push((centered(4), centered(8)));
    let affine = |bits, group| Coding::Affine { bits, group };
    codings.extend([2, 3, 4, 5, 6, 8].map(|bits| (affine(bits, 64), affine(bits, 32))));
    codings.push((affine(4, 128), affine(8, 128)));
    for (gate, down) in codings {
        let agree = experts_agree(&mut r, gate, down).expect("it runs");
        assert!(agree, "{gate:?}, {down:?}");
    }
}
