//! A program that is nothing but a shim: tests start it in place of the whole program.

fn main() {
    if runtime::shim::requested() {
        let code = runtime::shim::main();
        #[expect(clippy::disallowed_methods, reason = "this is main")]
        std::process::exit(code);
    }
}
