//! The `pontoon-chaos` command.

fn main() -> std::process::ExitCode {
    pontoon_chaos::cli::main()
}
