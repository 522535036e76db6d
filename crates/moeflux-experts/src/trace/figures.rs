//! What a trace shows of how experts are used: how unevenly, and how soon again.

use super::Trace;

/// How a trace's experts are used. Uses count by token: a token uses `top_k` experts in a layer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TraceFigures {
    /// Steps.
    pub steps: usize,
    /// Steps of one token.
    pub decode_steps: usize,
    /// Tokens in all steps.
    pub tokens: u64,
    /// Uses.
    pub uses: u64,
    /// Distinct experts used, by layer.
    pub distinct: Vec<usize>,
    /// Share of the uses that the most used experts of each layer have together: of the first 10,
    /// 25 and 50 % of a layer's experts.
    pub shares: [f64; 3],
    /// Share of a token's experts that the token before it used too, over steps of one token.
    pub reused: f64,
    /// Distinct experts of all layers used between two uses of an expert, itself included: what
    /// memory must hold for the second use to find it under least recently used. Quantiles at
    /// 10, 25, 50, 75 and 90 % of the uses that are not the first. Steps of one token only.
    pub distances: [usize; 5],
}

impl TraceFigures {
    /// Which parts of a layer's experts [`TraceFigures::shares`] is about.
    pub const PARTS: [f64; 3] = [0.10, 0.25, 0.50];
    /// Which quantiles [`TraceFigures::distances`] has.
    pub const QUANTILES: [f64; 5] = [0.10, 0.25, 0.50, 0.75, 0.90];
}

impl Trace {
    /// Counts; takes time in proportion to the uses.
    pub fn figures(&self) -> TraceFigures {
        let experts = self.header.experts();
        let mut counts: Vec<Vec<u64>> = experts.iter().map(|&n| vec![0; n as usize]).collect();
        for layer in self.steps.iter().flat_map(|step| &step.layers) {
            for &id in &layer.ids {
                counts[layer.turn as usize][id as usize] += 1;
            }
        }
        let decode = self.steps.iter().filter(|step| step.tokens == 1);
        TraceFigures {
            steps: self.steps.len(),
            decode_steps: decode.count(),
            tokens: self.steps.iter().map(|step| u64::from(step.tokens)).sum(),
            uses: counts.iter().flatten().sum(),
            distinct: counts
                .iter()
                .map(|counts| counts.iter().filter(|&&count| count > 0).count())
                .collect(),
            shares: shares(&mut counts),
            reused: self.reused(),
            distances: self.distances(),
        }
    }

    fn reused(&self) -> f64 {
        let (mut same, mut all) = (0, 0);
        for pair in self.steps.windows(2) {
            if pair.iter().any(|step| step.tokens != 1) {
                continue;
            }
            for (before, now) in pair[0].layers.iter().zip(&pair[1].layers) {
                same += now.ids.iter().filter(|id| before.ids.contains(id)).count();
                all += now.ids.len();
            }
        }
        same as f64 / (all.max(1)) as f64
    }

    fn distances(&self) -> [usize; 5] {
        let mut first_key = vec![0];
        for experts in self.header.experts() {
            first_key.push(first_key[first_key.len() - 1] + experts as usize);
        }
        let decode = || self.steps.iter().filter(|step| step.tokens == 1);
        let uses: usize = decode().flat_map(|s| &s.layers).map(|l| l.ids.len()).sum();
        let mut marks = Marks::new(uses);
        let mut last = vec![usize::MAX; self.header.expert_count()];
        let (mut found, mut now) = (Vec::new(), 0);
        for layer in decode().flat_map(|step| &step.layers) {
            for &id in &layer.ids {
                let key = first_key[layer.turn as usize] + id as usize;
                let before = std::mem::replace(&mut last[key], now);
                if before != usize::MAX {
                    found.push(marks.after(before) + 1);
                    marks.add(before, false);
                }
                marks.add(now, true);
                now += 1;
            }
        }
        found.sort_unstable();
        TraceFigures::QUANTILES.map(|quantile| {
            let at = (quantile * found.len() as f64) as usize;
            found.get(at).copied().unwrap_or(0)
        })
    }
}

/// Shares of the most used parts of each layer. Sorts the counts.
fn shares(counts: &mut [Vec<u64>]) -> [f64; 3] {
    counts
        .iter_mut()
        .for_each(|counts| counts.sort_unstable_by(|a, b| b.cmp(a)));
    let all: u64 = counts.iter().flatten().sum();
    TraceFigures::PARTS.map(|part| {
        let top = |counts: &Vec<u64>| {
            let first = (part * counts.len() as f64).ceil() as usize;
            counts[..first].iter().sum::<u64>()
        };
        counts.iter().map(top).sum::<u64>() as f64 / all.max(1) as f64
    })
}

/// Marks on a line of places, counted in logarithmic time (a Fenwick tree).
struct Marks {
    sums: Vec<u32>,
    all: usize,
}

impl Marks {
    fn new(places: usize) -> Marks {
        Marks {
            sums: vec![0; places + 1],
            all: 0,
        }
    }

    /// Sets the mark of a place that has none, or takes it away.
    fn add(&mut self, place: usize, set: bool) {
        let mut at = place + 1;
        while at < self.sums.len() {
            let sum = &mut self.sums[at];
            *sum = if set { *sum + 1 } else { *sum - 1 };
            at += at & at.wrapping_neg();
        }
        self.all = if set { self.all + 1 } else { self.all - 1 };
    }

    /// Marks behind a place.
    fn after(&self, place: usize) -> usize {
        let (mut at, mut before) = (place + 1, 0);
        while at > 0 {
            before += self.sums[at] as usize;
            at -= at & at.wrapping_neg();
        }
        self.all - before
    }
}
