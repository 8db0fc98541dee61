//! What a check found.

use super::distro::Distro;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    There,
    /// It may do without.
    Doubtful,
    /// It is missing, and nothing works without.
    Missing,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do if it is missing.
    pub fix: Option<String>,
    /// The package that brings it.
    pub package: Option<&'static str>,
}

impl Finding {
    pub(super) fn there(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            state: State::There,
            detail: detail.into(),
            fix: None,
            package: None,
        }
    }

    pub(super) fn missing(
        name: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            state: State::Missing,
            detail: detail.into(),
            fix: Some(fix.into()),
            package: None,
        }
    }

    pub(super) fn package(
        name: &'static str,
        detail: impl Into<String>,
        package: &'static str,
    ) -> Self {
        let fix = Distro::here().install(package);
        Self {
            package: Some(package),
            ..Self::missing(name, detail, fix)
        }
    }

    /// The finding in one line.
    pub fn sentence(&self) -> String {
        match &self.fix {
            Some(fix) => format!("{}: {}\n    what to do: {fix}", self.name, self.detail),
            None => format!("{}: {}", self.name, self.detail),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.state {
            State::There => "ok",
            State::Doubtful => "note",
            State::Missing => "MISSING",
        };
        write!(f, "{word:<8} {:<15} {}", self.name, self.detail)?;
        if let Some(fix) = &self.fix {
            write!(f, "\n{:<8} {:<15} fix: {fix}", "", "")?;
        }
        Ok(())
    }
}
