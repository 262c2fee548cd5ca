//! Compiles the demo worker's protocol with protox, so that no machine needs `protoc`.

use prost::Message as _;

const FILE: &str = "src/demo/inference.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile([FILE], ["src/demo"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("inference.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed={FILE}");
    Ok(())
}
