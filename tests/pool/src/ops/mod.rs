//! The operations of XAPI, class by class. Each file enters its own into the table.

pub(crate) mod disks;
pub(crate) mod gate;
mod host;
mod messages;
pub(crate) mod power;
mod session;
pub(crate) mod snapshot;
pub(crate) mod sr;
pub(crate) mod vbd;
pub(crate) mod vdi;
mod vif;
pub(crate) mod vm;
mod vtpm;

use crate::config::Profile;
use crate::rpc::Methods;

pub(crate) use messages::post as post_message;
pub(crate) use vif::derive_mac;
pub(crate) use vtpm::contents_of as vtpm_contents;
pub(crate) use vtpm::create as create_vtpm;

/// The whole table.
pub(crate) fn methods(profile: Profile) -> Methods {
    let mut table = Methods::new(profile);
    session::enter(&mut table);
    messages::enter(&mut table);
    host::enter(&mut table);
    sr::enter(&mut table);
    vdi::enter(&mut table);
    vbd::enter(&mut table);
    vif::enter(&mut table);
    vm::enter(&mut table);
    snapshot::enter(&mut table);
    power::enter(&mut table);
    vtpm::enter(&mut table);
    table
}
