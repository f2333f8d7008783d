//! The program `plimsoll`: daemon and client in one. Everything is in the library.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    plimsoll_appliance::cli::main()
}
