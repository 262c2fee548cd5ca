//! Compiles the protocol files with protox, so that no machine needs `protoc`.

use prost::Message as _;

const FILES: [&str; 3] = [
    "pontoon/admin/v1/admin.proto",
    "pontoon/peer/v1/peer.proto",
    "pontoon/worker/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        // The command line prints what the admin API answers as JSON, field by field.
        .type_attribute(".pontoon.admin.v1", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
