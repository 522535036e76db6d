//! Products of one vector a token with several matrices.

use super::super::check::{holds, product};
use super::input::{Input, Kind};
use super::{ahead, runs, threads};
use crate::matrix::{Form, Place, TILE, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "products",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("../form.wgsl"),
        include_str!("dot.wgsl"),
        include_str!("ahead.wgsl"),
        "//#if SECOND",
        "//#form B m",
        include_str!("../form.wgsl"),
        include_str!("dot.wgsl"),
        include_str!("ahead.wgsl"),
        "//#form  m",
        "//#endif",
        include_str!("stage.wgsl"),
        include_str!("join.wgsl"),
        include_str!("products.wgsl"),
    ],
};
/// Matrices of a dispatch.
pub const MAX_SEGMENTS: usize = 4;
/// Tiles that a workgroup takes where there are many; results do not depend on it.
const TILES: usize = 4;
/// Tiles that are many.
const MANY_TILES: usize = 2048;

/// A matrix, and where its results go.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its form.
    pub form: Form,
    /// Where it lies in the buffer of all.
    pub place: Place,
    /// Elements from one token's results to the next one's.
    pub stride: usize,
    /// Where the first token's results begin, in elements of the result's view.
    pub out: usize,
}

fn params(segments: &[Segment], input: Kind, is_added: bool) -> Vec<Param> {
    let form = &segments[0].form;
    let mut params = form.params();
    let second = segments.iter().find(|s| s.form.elements != form.elements);
    let threads = threads(
        segments.iter().map(|s| runs(&s.form)).max().unwrap_or(1),
        64,
    );
    let staged = input.staged(form.cols);
    let mut mask = 0;
    if let Some(second) = second {
        params.extend(second.form.second_params());
        let (ahead, more) = ahead(&second.form, staged, threads);
        params.extend([("BAHEAD", ahead), ("BMORE", more)]);
        for (at, segment) in segments.iter().enumerate() {
            mask |= u32::from(segment.form.elements != form.elements) << at;
        }
    }
    let tiles: usize = segments.iter().map(|s| s.form.rows.div_ceil(TILE)).sum();
    let is_staged_once = staged >= form.cols;
    let turns = match is_staged_once && tiles >= MANY_TILES {
        true => TILES,
        false => 1,
    };
    let added = u32::from(is_added) * (3 + input.besides() as u32);
    params.extend(input.params(form.cols, threads));
    let (ahead, more) = ahead(form, staged, threads);
    params.extend([
        ("SECOND", mask),
        ("THREADS", threads),
        ("AHEAD", ahead),
        ("MORE", more),
        ("SEGMENTS", segments.len() as u32),
        ("TILES", turns as u32),
        ("ADDED", added),
    ]);
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let segment = |form: &Form, rows| Segment {
        form: Form { rows, ..*form },
        place: Place::default(),
        stride: rows,
        out: 0,
    };
    let mut all = Vec::new();
    let mut forms = all_forms(2048);
    forms.retain(super::is_readable);
    for (at, form) in forms.iter().enumerate() {
        let kind = Kind::ALL[at % Kind::ALL.len()];
        let second = &forms[(at + 5) % forms.len()];
        let four = [16, 32, 40_000, 1].map(|rows| segment(form, rows));
        all.push(params(&[segment(form, 16)], kind, true));
        all.push(params(&four, kind, false));
        all.push(params(
            &[segment(form, 16), segment(second, 16)],
            kind,
            true,
        ));
    }
    let wide = &all_forms(8192)[0];
    all.extend(Kind::ALL.map(|kind| params(&[segment(wide, 16)], kind, true)));
    (&SHADER, all)
}

/// The products of `input` of each of `tokens` tokens with the matrices of `segments` (1 to
/// [`MAX_SEGMENTS`] of as many columns and at most two codings), which lie in `matrices`; `added`,
/// if there is one, laid out as `out`, is added to them.
///
/// # Errors
/// Views that are too small, matrices that do not go together, and what [`Recorder::dispatch`] says.
pub fn products(
    r: &mut Recorder,
    (matrices, segments): (View<'_>, &[Segment]),
    input: &Input<'_>,
    added: Option<View<'_>>,
    out: View<'_>,
    tokens: usize,
) -> Result<(), GpuError> {
    check(&matrices, segments, input, (&out, &added), tokens)?;
    let params = params(segments, input.kind(), added.is_some());
    let mut immediates = vec![segments[0].form.cols as u32, input.eps().to_bits()];
    let mut end = 0;
    for segment in segments {
        end += segment.form.rows.div_ceil(TILE) as u32;
        let Place {
            weights,
            scales,
            biases,
        } = segment.place;
        immediates.extend([end, segment.form.rows as u32, segment.stride as u32]);
        immediates.extend([segment.out as u32, weights, scales, biases]);
    }
    let turns = params.iter().find(|(name, _)| *name == "TILES");
    let (x, besides) = input.views();
    let mut views = vec![matrices, x, out];
    views.extend(besides);
    views.extend(added);
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params,
        views: &views,
        immediates: &immediates,
        groups: [end.div_ceil(turns.map_or(1, |t| t.1)), tokens as u32, 1],
    })
}

fn check(
    matrices: &View<'_>,
    segments: &[Segment],
    input: &Input<'_>,
    (out, added): (&View<'_>, &Option<View<'_>>),
    tokens: usize,
) -> Result<(), GpuError> {
    let name = SHADER.name;
    let Some(Segment { form: first, .. }) = segments.first() else {
        let problem = format!("{name}: no matrix");
        return Err(GpuError::Refused { problem });
    };
    let mut codings = vec![first.elements];
    for Segment {
        form,
        place,
        stride,
        out: start,
    } in segments
    {
        if !codings.contains(&form.elements) {
            codings.push(form.elements);
        }
        if form.cols != first.cols || !super::is_readable(form) || form.rows == 0 {
            let problem = format!("{name}: matrices of forms {first:?} and {form:?}");
            return Err(GpuError::Refused { problem });
        }
        holds(name, "matrices", matrices, form.end(*place) / 4)?;
        let before = product(name, &[tokens.max(1) - 1, *stride])? as usize;
        for view in [out].into_iter().chain(added) {
            holds(
                name,
                "out, or what is added",
                view,
                start + before + form.rows,
            )?;
        }
    }
    if codings.len() > 2 || segments.len() > MAX_SEGMENTS {
        let problem = format!("{name}: {} matrices of codings {codings:?}", segments.len());
        return Err(GpuError::Refused { problem });
    }
    input.check(name, tokens, first)
}
