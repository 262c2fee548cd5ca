//! How a command ends: the exit codes, and the one line on stderr.
//!
//! Codes are those of BSD's `sysexits.h` where one fits, so that scripts can tell a wrong flag from
//! a cluster that is down.

use std::fmt;
use std::process::ExitCode;

/// Why a command failed, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Refused or not found; the text says what.
    Other = 1,
    /// Wrong usage, or a bad configuration.
    Usage = 64,
    /// Nobody answers there, or the cluster can't at present: trying again may help.
    Unreachable = 69,
    /// A bug in us.
    Bug = 70,
    /// The token is missing, unknown or may not do this.
    Permission = 77,
}

impl Code {
    /// The meaning of a number that a command chose itself.
    pub fn of(number: u8) -> Self {
        [Code::Usage, Code::Unreachable, Code::Bug, Code::Permission]
            .into_iter()
            .find(|code| *code as u8 == number)
            .unwrap_or(Code::Other)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// One line: what is wrong and what to do.
    pub text: String,
}

impl Failure {
    /// A failure with its text.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
