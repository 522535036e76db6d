//! Size checks of attention.

use super::{AttentionShape, AttentionSpan};
use crate::{KV_PAGE_TOKENS, KernelError, check};

/// Checks all spans.
pub(crate) fn check(
    spans: &[AttentionSpan<'_>],
    shape: AttentionShape,
    sinks: Option<&[f32]>,
) -> Result<(), KernelError> {
    const OP: &str = "attention";
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    check::positive(OP, "head_dim", head_dim)?;
    check::multiple(OP, "heads", heads, kv_heads)?;
    check::positive(OP, "window", shape.window.unwrap_or(1))?;
    if let Some(sinks) = sinks {
        check::size(OP, "sinks", heads, sinks.len())?;
    }
    for span in spans {
        let n = check::rows(OP, "q", span.q.len(), check::product(&[heads, head_dim]))?;
        check::size(OP, "out", span.q.len(), span.out.len())?;
        let pages = span.start.saturating_add(n).div_ceil(KV_PAGE_TOKENS);
        let pages = pages.saturating_sub(span.dropped);
        if span.pages.len() < pages {
            check::size(OP, "pages", pages, span.pages.len())?;
        }
        let first_page = shape.first_seen(span.start) / KV_PAGE_TOKENS;
        if span.dropped > first_page {
            check::size(OP, "dropped pages", first_page, span.dropped)?;
        }
        for page in span.pages {
            check::size(OP, "heads of a page", kv_heads, page.shape().0)?;
            check::size(OP, "head_dim of a page", head_dim, page.shape().1)?;
            let expected = span.pages[0].kv_type().bytes();
            check::size(OP, "element of a page", expected, page.kv_type().bytes())?;
            let (first, own) = (span.pages[0].is_joint(), page.is_joint());
            check::size(OP, "parts of a page", first.into(), own.into())?;
        }
    }
    Ok(())
}
