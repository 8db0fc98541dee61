//! How much is measured, and in which order.

use std::ops::Range;

/// Rounds, and whether a coarse picture is enough.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Plan {
    /// Rounds in which the kinds take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Number of the first round
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Fewer and smaller cases: those that targets name, and what a plot needs
    #[arg(long)]
    pub quick: bool,
}

impl Plan {
    /// The numbers of the rounds.
    pub fn rounds(self) -> Range<u32> {
        self.first..self.first + self.rounds
    }

    /// As many times the rounds, for what differs much from one to the next.
    pub fn times(self, times: u32) -> Self {
        Self {
            rounds: self.rounds * times,
            first: self.first * times,
            ..self
        }
    }

    /// Each round's turns, each time another one first: what drifts in the guest meets all alike.
    pub fn turns<T: Copy>(self, all: &[T]) -> Vec<(u32, T)> {
        let turn = |round: u32| {
            let first = round as usize % all.len().max(1);
            let (late, early) = all.split_at(first);
            early.iter().chain(late).map(move |one| (round, *one))
        };
        self.rounds().flat_map(turn).collect()
    }

    /// The options that give this plan for one round.
    pub fn options(self, round: u32) -> Vec<String> {
        let mut options = vec!["--rounds=1".to_owned(), format!("--first={round}")];
        options.extend(self.quick.then(|| "--quick".to_owned()));
        options
    }

    /// The first of two with `--quick`, else the second.
    pub fn pick<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rounds_of_two_guests_have_numbers_of_their_own() {
        let plan = |first| Plan {
            rounds: 2,
            first,
            quick: false,
        };
        assert_eq!(plan(0).times(3).rounds(), 0..6);
        assert_eq!(plan(2).times(3).rounds(), 6..12);
    }

    #[test]
    fn everyone_is_first_in_turn() {
        let plan = Plan {
            rounds: 2,
            first: 1,
            quick: true,
        };
        let turns = plan.turns(&['a', 'b', 'c']);
        assert_eq!(
            turns,
            [(1, 'b'), (1, 'c'), (1, 'a'), (2, 'c'), (2, 'a'), (2, 'b')]
        );
        assert_eq!(plan.options(2), ["--rounds=1", "--first=2", "--quick"]);
        assert!(plan.turns::<u8>(&[]).is_empty());
    }
}
