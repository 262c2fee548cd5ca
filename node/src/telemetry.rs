//! Logs: lines for people, or JSON for machines, on standard error.
//!
//! No credential, ticket, cookie or key is ever logged (contract O-LOG-1): secrets are kept in types
//! whose `Debug` hides them, and call events name fields one by one.

use crate::config::raw::LogFormat;
use tracing_subscriber::EnvFilter;

/// Starts logging for this process. The filter is `level` or `target=level,...`.
///
/// # Errors
///
/// When the filter does not parse; the text says which part.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!("log.filter: {error}; write a level (info) or target=level pairs (info,h2=warn)")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first one's settings.
    let _first_wins = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
