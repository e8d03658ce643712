//! Compiles the protos without a `protoc` program.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 7] = ["agent", "job", "pool", "remote", "restore", "run", "work"];
    let files: Vec<String> = FILES.iter().map(|name| format!("coffer/v1/{name}.proto")).collect();
    let descriptors = protox::compile(&files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("coffer.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // These carry passwords: their `Debug` is written by hand, without them.
    const SECRET: [&str; 4] =
        [".coffer.v1.Pool", ".coffer.v1.Remote", ".coffer.v1.PoolAccess", ".coffer.v1.RemoteAccess"];
    tonic_prost_build::configure().skip_debug(SECRET).compile_fds(descriptors)?;
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
