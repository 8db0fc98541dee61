//! Options that may differ between two hosts: one value for both, or a pair.

use std::ffi::OsStr;
use std::marker::PhantomData;

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, ValueEnum};

/// A value for each host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Each<T> {
    /// The same for all.
    Same(T),
    /// One for host 1, one for host 2.
    Pair([T; 2]),
}

impl<T> Each<T> {
    /// That of the host `index`, from 0.
    pub fn of(&self, index: usize) -> &T {
        match self {
            Self::Same(value) => value,
            Self::Pair(pair) => &pair[index.min(1)],
        }
    }

    /// Whether each host has its own.
    pub fn is_pair(&self) -> bool {
        matches!(self, Self::Pair(_))
    }

    /// From one value or two; from any other number, that number.
    fn from_values(values: Vec<T>) -> Result<Self, usize> {
        let mut values = values.into_iter();
        match (values.next(), values.next(), values.len()) {
            (Some(one), None, _) => Ok(Self::Same(one)),
            (Some(first), Some(second), 0) => Ok(Self::Pair([first, second])),
            (None, ..) => Err(0),
            (.., more) => Err(more + 2),
        }
    }
}

/// Why so many values are none for two hosts.
fn too_many(text: &str, count: usize) -> String {
    format!(
        "`{text}` are {count} values: give one for all hosts, or a pair for `--hosts 2`, host 1's first"
    )
}

/// Reads one word or two, with a comma between them.
///
/// # Errors
/// More words, or an empty one.
pub fn words(text: &str) -> Result<Each<String>, String> {
    let words: Vec<String> = text.split(',').map(str::to_owned).collect();
    if words.iter().any(String::is_empty) {
        return Err(format!("`{text}`: a value is missing"));
    }
    Each::from_values(words).map_err(|count| too_many(text, count))
}

/// Reads one value of an enumeration or two, with a comma between them.
#[derive(Debug, Clone)]
pub struct EachOf<T>(PhantomData<fn() -> T>);

/// The parser of values of this enumeration.
pub fn of<T>() -> EachOf<T> {
    EachOf(PhantomData)
}

impl<T: ValueEnum + Clone + Send + Sync + 'static> TypedValueParser for EachOf<T> {
    type Value = Each<T>;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let text = value.to_string_lossy();
        let one = EnumValueParser::<T>::new();
        let values = text
            .split(',')
            .map(|word| one.parse_ref(command, arg, OsStr::new(word)))
            .collect::<Result<Vec<_>, _>>()?;
        Each::from_values(values).map_err(|count| {
            let name = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("{name}: {}", too_many(&text, count));
            command.clone().error(ErrorKind::TooManyValues, message)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = T::value_variants().iter();
        Some(Box::new(values.filter_map(ValueEnum::to_possible_value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
    enum Colour {
        Red,
        Blue,
    }

    fn colours(text: &str) -> Result<Each<Colour>, String> {
        let command = Command::new("paint");
        of().parse_ref(&command, None, OsStr::new(text))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_value_is_for_all_and_two_are_a_pair() {
        let same = colours("red").unwrap();
        assert_eq!(same, Each::Same(Colour::Red));
        assert_eq!((same.of(0), same.of(1)), (&Colour::Red, &Colour::Red));
        let pair = colours("red,blue").unwrap();
        assert_eq!((pair.of(0), pair.of(1)), (&Colour::Red, &Colour::Blue));
        assert!(pair.is_pair() && !same.is_pair());
        assert_eq!(
            words("7.3,7.2"),
            Ok(Each::Pair(["7.3".to_owned(), "7.2".to_owned()]))
        );
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        assert!(
            colours("red,blue,red")
                .unwrap_err()
                .contains("`red,blue,red` are 3 values")
        );
        assert!(colours("red,green").unwrap_err().contains("green"));
        assert!(words("7.3,7.2,7.3").unwrap_err().contains("3 values"));
        assert!(words("7.3,").unwrap_err().contains("missing"));
    }
}
