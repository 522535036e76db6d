//! tmp
use moeflux_kernels::*;
fn main() {
    let a: Vec<usize> = std::env::args()
        .skip(1)
        .map(|x| x.parse().unwrap())
        .collect();
    let (bits, cols, n, reps) = (a[0], a[1], a[2], a[3]);
    let rows = 32768;
    let bytes: Vec<u8> = (0..rows * cols / 8 * bits)
        .map(|i| (i * 2_654_435_761) as u8)
        .collect();
    let words = vec![0x3c00u16; rows * cols / 64];
    let cpu = Cpu::new(Isa::detect(), std::env::var("T").map_or(1, |t| t.parse().unwrap())).unwrap();
    let x = vec![1.0f32; n * cols];
    let mut q = Quantized::default();
    q.quantize(&cpu, &x, n, cols, 64).unwrap();
    let slice = 2048;
    let mut out = vec![0.0; n * slice];
    let mut best = f64::INFINITY;
    for r in 0..reps {
        let row = r * slice % if std::env::var("HOT").is_ok() { slice } else { rows };
        let data = MatrixData::Affine {
            bits: bits as u32,
            group: 64,
            weights: &bytes[row * cols / 8 * bits..][..slice * cols / 8 * bits],
            scales: &words[row * cols / 64..][..slice * cols / 64],
            biases: &words[row * cols / 64..][..slice * cols / 64],
        };
        let w = Matrix::new(slice, cols, data).unwrap();
        let t = std::time::Instant::now();
        cpu.matmul(&mut [MatmulJob {
            weights: w,
            x: &x,
            quantized: Some(&q),
            tokens: None,
            out: &mut out,
        }])
        .unwrap();
        best = best.min(t.elapsed().as_secs_f64());
    }
    println!(
        "bits {bits} cols {cols} n {n}: {:.3} ms, {:.1} GB/s, {:.2} ns per row group",
        best * 1e3,
        (slice * cols * bits / 8 + slice * cols / 16) as f64 / best / 1e9,
        best * 1e9 / (slice * cols / 64) as f64
    );
}
