//! Whether a device computes experts to the processor's bits. Where it does, an expert may be
//! computed on either, and no answer tells which.

use std::sync::Arc;

use moeflux_kernels::{Coded, Coding, MatmulJob, Matrix, MatrixData, arrange, reference};

use crate::matrix::Form;
use crate::ops::{self, ExpertSlots};
use crate::{DeviceBuffer, Gpu, GpuError, Recorder, View};

/// Elements of each trial of scalar functions.
const TRIALS: usize = 4096;

/// Random bits, the same on every run.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Of any sign, 2^-`spread` to 2^`spread`.
    fn float(&mut self, spread: u32) -> f32 {
        let exponent = 127 - spread + self.next() % (2 * spread + 1);
        let sign = self.next() & 0x8000_0000;
        f32::from_bits(sign | (exponent << 23) | (self.next() & 0x7f_ffff))
    }
}

/// Finds out whether the device's multiply-add is rounded once, and whether the functions that
/// experts are made of give the processor's bits.
///
/// # Errors
/// What the device reports.
pub fn scalar_functions_agree(r: &mut Recorder) -> Result<bool, GpuError> {
    let own = scalar_differences(r, true)?.is_empty();
    let _ = r.gpu().fma.set(own);
    Ok(own || scalar_differences(r, false)?.is_empty())
}

/// Whether experts in usual codings come out with the processor's bits.
///
/// # Errors
/// What the device reports.
pub fn usual_experts_agree(gpu: &Arc<Gpu>) -> Result<bool, GpuError> {
    let mut recorder = Recorder::new(Arc::clone(gpu));
    let affine = |bits| Coding::Affine { bits, group: 64 };
    let mut agree = scalar_functions_agree(&mut recorder)?;
    let usual = [
        (affine(4), affine(8)),
        (Coding::Q8_0, Coding::Q4_0),
        (Coding::Q4K, Coding::Q6K),
        (Coding::Mxfp4, Coding::Iq4Nl),
        (Coding::Nvfp4, Coding::Nvfp4),
    ];
    for (gate, down) in usual {
        agree = agree && experts_agree(&mut recorder, gate, down)?;
    }
    Ok(agree)
}

/// For each function whose results are not the processor's, the first that is not; `has_fma`: with
/// the device's own multiply-add.
///
/// # Errors
/// What the device reports.
pub fn scalar_differences(r: &mut Recorder, has_fma: bool) -> Result<Vec<String>, GpuError> {
    let random = &mut Bits(0x2545_f491_4f6c_dd1d);
    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..TRIALS {
        let (x, y) = (random.float(6), random.float(6));
        a.push(x);
        b.push(y);
        // Often nearly what the product takes away.
        c.push(match i % 4 {
            0 => random.float(6),
            1 => random.float(40),
            2 => -x * y,
            _ => -x * y * (1.0 + random.float(30)),
        });
    }
    let gpu = Arc::clone(r.gpu());
    let upload = |v: &[f32]| gpu.buffer_with("a trial", bytemuck::cast_slice(v));
    let (a_there, b_there, c_there) = (upload(&a)?, upload(&b)?, upload(&c)?);
    let out = gpu.buffer("a trial", 12 * TRIALS as u64)?;
    let inputs = [&a_there, &b_there, &c_there].map(View::from);
    ops::exact_probe(r, inputs, (&out).into(), TRIALS, has_fma)?;
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&r.read(&[(&out).into()])?);
    let mut silu = vec![0.0; TRIALS];
    if reference::swiglu(&a, &b, &mut silu).is_err() {
        silu.fill(f32::NAN);
    }
    let fused: Vec<f32> = (0..TRIALS).map(|i| a[i].mul_add(b[i], c[i])).collect();
    let divided: Vec<f32> = (0..TRIALS).map(|i| a[i] / b[i]).collect();
    let mut differences = Vec::new();
    let expected = [
        ("a * b + c", fused),
        ("a / b", divided),
        ("silu(a) * b", silu),
    ];
    for ((name, expected), found) in expected.iter().zip(found.chunks(TRIALS)) {
        let differs = |i: &usize| found[*i].to_bits() != expected[*i].to_bits();
        if let Some(i) = (0..TRIALS).find(differs) {
            let (a, b, c) = (a[i], b[i], c[i]);
            let (found, expected) = (found[i], expected[i]);
            differences.push(format!(
                "{name} is {found:e}, not {expected:e}, with a {a:e}, b {b:e}, c {c:e}"
            ));
        }
    }
    Ok(differences)
}

/// Whether experts whose matrices are coded so come out with the processor's bits: gate and up of
/// `gate`, down of `down`. Asked after [`scalar_functions_agree`].
///
/// # Errors
/// What the device reports.
pub fn experts_agree(r: &mut Recorder, gate: Coding, down: Coding) -> Result<bool, GpuError> {
    let random = &mut Bits(0x9e37_79b9_7f4a_7c15);
    // Two chunks of columns, the second of one segment and a part.
    let (hidden, intermediate) = (2816, 512);
    let [gate, up, down] = [
        (gate, intermediate, hidden),
        (gate, intermediate, hidden),
        (down, hidden, intermediate),
    ]
    .map(|(coding, rows, cols)| RandomWeights::new(random, coding, rows, cols));
    let (Some(gate), Some(up), Some(down)) = (gate, up, down) else {
        return Ok(false);
    };
    let x = activations(random, hidden);
    let Some(expected) = on_processor([&gate, &up, &down], &x) else {
        return Ok(false);
    };
    let found = on_device(r, [&gate, &up, &down], &x)?;
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    Ok(found.len() == expected.len() && bits(&found) == bits(&expected))
}

/// Of sizes that differ from group to group; some groups vanish, some lie on halves.
fn activations(random: &mut Bits, len: usize) -> Vec<f32> {
    let mut x = Vec::with_capacity(len);
    for group in 0..len / 16 {
        let size = 2.0f32.powi((group % 37) as i32 - 30);
        for i in 0..16 {
            x.push(match group % 11 {
                0 => 0.0,
                1 if i == 0 => 127.0 * size,
                1 => ((random.next() % 254) as f32 - 126.5) * size,
                _ => random.float(4) * size,
            });
        }
    }
    x
}

/// Bytes of a row's block of a coding as files have it, and where in it binary16 scales begin.
pub fn file_block(coding: Coding) -> (usize, &'static [usize]) {
    match coding {
        Coding::Affine { .. } | Coding::Centered { .. } => (1, &[]),
        Coding::Mxfp4 => (17, &[]),
        Coding::Nvfp4 => (18, &[]),
        Coding::Q4_0 | Coding::Iq4Nl => (18, &[0]),
        Coding::Q4_1 => (20, &[0, 2]),
        Coding::Q5_0 => (22, &[0]),
        Coding::Q5_1 => (24, &[0, 2]),
        Coding::Q8_0 => (34, &[0]),
        Coding::Q2K => (84, &[80, 82]),
        Coding::Q3K => (110, &[108]),
        Coding::Iq4Xs => (136, &[0]),
        Coding::Q4K => (144, &[0, 2]),
        Coding::Q5K => (176, &[0, 2]),
        Coding::Q6K => (210, &[208]),
    }
}

/// A likely scale of a whole matrix of a coding.
pub fn global(coding: Coding) -> f32 {
    match coding {
        Coding::Nvfp4 => 3e-4,
        _ => 1.0,
    }
}

/// A matrix of random integers with likely scales.
struct RandomWeights {
    coding: Coding,
    rows: usize,
    cols: usize,
    weights: Vec<u8>,
    scales: Vec<u16>,
    biases: Vec<u16>,
}

impl RandomWeights {
    fn new(random: &mut Bits, coding: Coding, rows: usize, cols: usize) -> Option<RandomWeights> {
        let [weights, scales, biases] = coding.part_lengths(rows, cols).ok()?;
        let mut weights: Vec<u8> = (0..weights).map(|_| random.next() as u8).collect();
        // bfloat16 is the upper half of f32.
        let mut maps = |len: usize| -> Vec<u16> {
            let upper = |v: f32| (v.to_bits() >> 16) as u16;
            (0..len).map(|_| upper(random.float(8) / 64.0)).collect()
        };
        let (mut scales, mut biases) = (maps(scales), maps(biases));
        let (block, places) = file_block(coding);
        for block in weights.chunks_exact_mut(block) {
            for &at in places {
                // Some are subnormal.
                let scale = half::f16::from_f32(random.float(8) / 512.0);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            if coding == Coding::Mxfp4 {
                block[0] = 112 + block[0] % 16;
            }
        }
        let [s, b] = [&mut scales, &mut biases].map(|part| bytemuck::cast_slice_mut(part));
        arrange(coding, rows, cols, &mut weights, s, b).ok()?;
        Some(RandomWeights {
            coding,
            rows,
            cols,
            weights,
            scales,
            biases,
        })
    }

    fn matrix(&self) -> Option<Matrix<'_>> {
        let coded = Coded {
            coding: self.coding,
            weights: &self.weights,
            scales: &self.scales,
            biases: &self.biases,
            global: global(self.coding),
        };
        Matrix::new(self.rows, self.cols, MatrixData::Coded(coded)).ok()
    }

    /// Its product with `x`, rounded to 8 bits.
    fn times(&self, x: &[f32]) -> Option<Vec<f32>> {
        let rounded = reference::quantize(x, 1, self.cols, self.coding.rounding()).ok()?;
        let mut out = vec![0.0; self.rows];
        let job = MatmulJob {
            weights: self.matrix()?,
            x,
            quantized: Some(&rounded),
            tokens: None,
            out: &mut out,
        };
        reference::matmul(&mut [job]).ok()?;
        Some(out)
    }
}

/// What [`on_device`] gives: the activations between, then the result.
fn on_processor([gate, up, down]: [&RandomWeights; 3], x: &[f32]) -> Option<Vec<f32>> {
    let (gate, up) = (gate.times(x)?, up.times(x)?);
    let mut act = vec![0.0; gate.len()];
    reference::swiglu(&gate, &up, &mut act).ok()?;
    let out = down.times(&act)?;
    act.extend(out);
    Some(act)
}

fn on_device(
    r: &mut Recorder,
    matrices: [&RandomWeights; 3],
    x: &[f32],
) -> Result<Vec<f32>, GpuError> {
    let gpu = Arc::clone(r.gpu());
    let mut slot = Vec::new();
    let mut placed = Vec::new();
    for matrix in matrices {
        let Some(matrix) = matrix.matrix() else {
            return Ok(Vec::new());
        };
        let form = Form::of(&matrix);
        placed.push((form, form.place(slot.len())));
        form.pack(&matrix, &mut slot);
    }
    let upload = |bytes: &[u8]| gpu.buffer_with("a trial", bytes);
    let (slots, x) = (upload(&slot)?, upload(bytemuck::cast_slice(x))?);
    // One expert in one slot, asked for once.
    let zero: DeviceBuffer = upload(&[0; 4])?;
    let experts = ExpertSlots {
        slots: (&slots).into(),
        slot_bytes: slot.len(),
        table: (&zero).into(),
        ids: (&zero).into(),
        n: 1,
    };
    let [(gate, gate_at), (_, up_at), (down, down_at)] = placed[..] else {
        return Ok(Vec::new());
    };
    let room = |gpu: &Gpu, rows: usize| gpu.buffer("a trial", rows as u64 * 4);
    let (act, out) = (room(&gpu, gate.rows)?, room(&gpu, down.rows)?);
    let fused = (&gate, gate_at, up_at);
    ops::expert_exact_swiglu(r, &experts, fused, ((&x).into(), 1), (&act).into())?;
    ops::expert_exact(
        r,
        &experts,
        (&down, down_at),
        ((&act).into(), 1),
        (&out).into(),
    )?;
    let of = |buffer, rows: usize| View::first(buffer, rows as u64 * 4);
    let bytes = r.read(&[of(&act, gate.rows), of(&out, down.rows)])?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}
