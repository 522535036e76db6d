//! Where in a prompt state is worth keeping.

/// The least number of tokens that is worth keeping or finding, and the least distance of two
/// places where state is kept.
pub const LEAST_TOKENS: usize = 64;
/// State is kept at least this often in a long prompt.
pub const STRIDE_TOKENS: usize = 2048;
/// The most tokens of a piece.
const PIECE_TOKENS: usize = 1024;

/// Positions at which a message begins, by the tokens that begin one.
fn messages<'t>(tokens: &'t [u32], openings: &'t [u32]) -> impl Iterator<Item = usize> + 't {
    let begins = |(_, token): &(usize, &u32)| openings.contains(token);
    tokens.iter().enumerate().filter(begins).map(|(at, _)| at)
}

/// Where to stop in `prompt` behind position `from` to keep the recurrent state, ascending: behind
/// the first message, which others may share; before the last one, which may be sent again in other
/// words; and before the answer, where the next turn goes on.
pub fn stops(prompt: &[u32], openings: &[u32], from: usize) -> Vec<usize> {
    let all: Vec<usize> = messages(prompt, openings).filter(|at| *at > 0).collect();
    let end = prompt.len().saturating_sub(1);
    let near_end = all.last().filter(|at| prompt.len() - **at <= LEAST_TOKENS);
    let before_answer = near_end.copied().unwrap_or(end);
    let earlier = all.iter().rev().find(|at| **at < before_answer);
    let mut wanted = vec![before_answer];
    wanted.extend(earlier);
    wanted.extend(all.iter().find(|at| **at >= LEAST_TOKENS));
    wanted.sort_unstable();
    let mut last = from;
    wanted.retain(|&at| {
        let far = at >= last + LEAST_TOKENS;
        last = if far { at } else { last };
        far
    });
    wanted
}

/// Where pieces of `tokens` behind position `from` end: where messages begin, so that sequences
/// part there, and where they would become long.
pub fn pieces(tokens: &[u32], openings: &[u32], from: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut last = from;
    let begins = messages(tokens, openings).filter(|at| *at > from);
    for at in begins.chain([tokens.len()]) {
        while at - last > PIECE_TOKENS + LEAST_TOKENS {
            last += PIECE_TOKENS;
            ends.push(last);
        }
        if at >= last + LEAST_TOKENS || (at == tokens.len() && at > last) {
            last = at;
            ends.push(last);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt whose messages have so many tokens each, the first being the opening 9.
    fn prompt(messages: &[usize]) -> Vec<u32> {
        let message = |len: &usize| [vec![9], vec![1; len - 1]].concat();
        messages.iter().flat_map(message).collect()
    }

    #[test]
    fn state_is_kept_around_the_messages_that_matter() {
        let openings = [9];
        // System, question, the answer's opening.
        assert_eq!(stops(&prompt(&[4000, 100, 3]), &openings, 0), [4000, 4100]);
        assert_eq!(stops(&prompt(&[4000, 20, 3]), &openings, 0), [4000]);
        let turns = prompt(&[4000, 100, 300, 100, 3]);
        assert_eq!(stops(&turns, &openings, 0), [4000, 4400, 4500]);
        assert_eq!(stops(&turns, &openings, 4390), [4500]);
        // Text without messages: in front of its last token, which is computed in any case.
        assert_eq!(stops(&[1; 500], &openings, 0), [499]);
        assert_eq!(stops(&[1; 500], &openings, 470), [0_usize; 0]);
        assert_eq!(stops(&prompt(&[10, 3]), &openings, 0), [0_usize; 0]);
    }

    #[test]
    fn pieces_end_where_messages_begin() {
        let openings = [9];
        assert_eq!(
            pieces(&prompt(&[200, 100, 3]), &openings, 0),
            [200, 300, 303]
        );
        assert_eq!(
            pieces(&prompt(&[200, 10, 10, 90]), &openings, 0),
            [200, 310]
        );
        assert_eq!(pieces(&prompt(&[200, 100, 3]), &openings, 250), [303]);
        assert_eq!(pieces(&prompt(&[2500]), &openings, 0), [1024, 2048, 2500]);
        assert_eq!(pieces(&[1; 5], &openings, 5), [0_usize; 0]);
    }
}
