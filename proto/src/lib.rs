//! The public contract: `coffer.v1`, compiled. The protos themselves (`proto/coffer/v1`) are the manual.

pub mod order;

/// Version 1 of the API.
pub mod v1 {
    #![allow(missing_docs, clippy::all, rustdoc::all, reason = "generated; the protos are documented")]
    tonic::include_proto!("coffer.v1");
}

/// Messages that carry a password show only who they are about: a `{:?}` in a log can then leak nothing.
macro_rules! debug_without_secrets {
    ($($message:ident.$subject:ident),*) => {$(
        impl std::fmt::Debug for v1::$message {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.debug_struct(stringify!($message)).field("name", &self.$subject).finish_non_exhaustive()
            }
        }
    )*};
}

debug_without_secrets!(Pool.name, Remote.name, PoolAccess.pool, RemoteAccess.remote);

// What is written by hand for a message is missing for the enums inside it too.
impl std::fmt::Debug for v1::pool::State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str_name())
    }
}

impl std::fmt::Debug for v1::remote::State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str_name())
    }
}

/// The compiled descriptors of [`v1`], for the reflection service: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/coffer.v1.bin"));

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};

    use super::{FILE_DESCRIPTOR_SET, v1};

    fn files() -> Vec<FileDescriptorProto> {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        set.file.into_iter().filter(|file| file.package() == "coffer.v1").collect()
    }

    /// Field numbers on the way from a file's descriptor to a message, enum, service, field, oneof, nested enum,
    /// method, value, nested value; in a location's path each is followed by an index.
    const DECLARATIONS: [&[i32]; 9] = [&[4], &[5], &[6], &[4, 2], &[4, 8], &[4, 4], &[6, 2], &[5, 2], &[4, 4, 2]];

    fn is_declaration(path: &[i32]) -> bool {
        let kind: Vec<i32> = path.iter().step_by(2).copied().collect();
        path.len().is_multiple_of(2) && DECLARATIONS.contains(&kind.as_slice())
    }

    #[test]
    fn every_message_field_enum_value_and_method_is_documented() {
        let mut undocumented = Vec::new();
        let mut declarations = 0;
        for file in files() {
            for location in &file.source_code_info.as_ref().expect("compiled with source information").location {
                if is_declaration(&location.path) {
                    declarations += 1;
                    if location.leading_comments().trim().is_empty() {
                        undocumented.push(format!("{}:{}", file.name(), location.span[0] + 1));
                    }
                }
            }
        }
        assert!(declarations > 300, "only {declarations} declarations found: the paths are wrong");
        assert!(undocumented.is_empty(), "without a comment: {undocumented:?}");
    }

    #[test]
    fn debug_output_of_messages_never_shows_a_password() {
        const SECRET: &str = "correct horse";
        let password = SECRET.to_owned();
        let pool = v1::Pool { name: "pools/lab".into(), password: password.clone(), ..Default::default() };
        let remote = v1::Remote { name: "remotes/nas".into(), password: password.clone(), ..Default::default() };
        let config = v1::AgentConfig {
            pools: vec![v1::PoolAccess { pool: "pools/lab".into(), password: password.clone(), ..Default::default() }],
            remotes: vec![v1::RemoteAccess { remote: "remotes/nas".into(), password, ..Default::default() }],
        };
        let shown =
            format!("{pool:?} {remote:?} {:?}", v1::SyncResponse { config: Some(config), ..Default::default() });
        assert!(shown.contains("pools/lab") && shown.contains("remotes/nas"), "{shown}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
