//! The pool as people and jobs see it: VMs with their disks, storage, hosts, networks. Pure: a view of the cache.

use uuid::Uuid;

use crate::Ref;
use crate::chains::Chains;
use crate::events::Tables;
use crate::records::{Host, Network, PowerState, Sr, VbdType, Vdi, VdiRecord, Vm, VmRecord};

/// What a pool holds, each list sorted by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// The pool's identity.
    pub pool: Uuid,
    /// Its name; that of its coordinator when it has none.
    pub pool_name: String,
    /// VMs: no templates, snapshots, control domains.
    pub vms: Vec<VmView>,
    /// Storage repositories.
    pub srs: Vec<SrView>,
    /// Hosts.
    pub hosts: Vec<HostView>,
    /// Networks.
    pub networks: Vec<NetworkView>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmView {
    /// For calls.
    pub reference: Ref<Vm>,
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Whether it runs.
    pub power_state: PowerState,
    /// The host that it runs on.
    pub host: Option<Uuid>,
    /// Its disks by position; no CDs.
    pub disks: Vec<DiskView>,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskView {
    /// For calls.
    pub reference: Ref<Vdi>,
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Size as the guest sees it, bytes.
    pub size: u64,
    /// `xvda`; empty while never attached.
    pub device: String,
    /// `0`, `1`, …
    pub position: String,
    /// Where it is.
    pub sr: Option<Uuid>,
    /// Whether changed blocks are tracked.
    pub cbt_enabled: bool,
    /// Length of its chain.
    pub chain_depth: usize,
    /// Nodes of its chain that wait to be merged.
    pub uncoalesced: usize,
}

/// A storage repository.
#[derive(Debug, Clone, PartialEq)]
pub struct SrView {
    /// For calls.
    pub reference: Ref<Sr>,
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Driver: `ext`, `nfs`, …
    pub kind: String,
    /// `iso` for images of CDs.
    pub content_type: String,
    /// Whether several hosts use it.
    pub shared: bool,
    /// Bytes; 0 when not known yet.
    pub size: u64,
    /// Bytes.
    pub used: u64,
    /// Hosts that have it attached.
    pub hosts: Vec<Uuid>,
    /// Nodes of its chains that wait to be merged.
    pub uncoalesced: usize,
}

impl SrView {
    /// Free space, bytes.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.size.saturating_sub(self.used)
    }
}

/// A host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    /// For calls.
    pub reference: Ref<Host>,
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Management address.
    pub address: String,
    /// It lives and is not in maintenance.
    pub usable: bool,
    /// The coordinator.
    pub coordinator: bool,
    /// `XCP-ng 8.3.0`
    pub product: String,
}

/// A network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkView {
    /// For calls.
    pub reference: Ref<Network>,
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// Whether disks are served over NBD with TLS here.
    pub nbd: bool,
}

impl Inventory {
    /// The view of what the cache holds.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        let pool = tables.pools.iter().next().map(|(_, pool)| pool);
        let master = pool.and_then(|pool| pool.master.as_ref());
        let chains = Chains::of(tables.vdis.iter().map(|(_, disk)| disk));
        let name_of_master = || master.and_then(|host| tables.hosts.get(host)).map(|host| host.name_label.clone());

        let mut vms: Vec<VmView> = tables
            .vms
            .iter()
            .filter(|(_, vm)| vm.is_plain_vm())
            .map(|(reference, vm)| vm_view(tables, &chains, reference, vm))
            .collect();
        let mut srs: Vec<SrView> = tables
            .srs
            .iter()
            .map(|(reference, _)| reference)
            .filter_map(|reference| sr_view(tables, reference))
            .collect();
        let mut hosts: Vec<HostView> = tables
            .hosts
            .iter()
            .map(|(reference, host)| {
                let version = |key: &str| host.software_version.get(key).map_or("", String::as_str);
                let product = format!("{} {}", version("product_brand"), version("product_version"));
                HostView {
                    reference: reference.clone(),
                    uuid: host.uuid,
                    name: host.name_label.clone(),
                    address: host.address.clone(),
                    usable: host.enabled && is_live(tables, reference),
                    coordinator: master == Some(reference),
                    product: product.trim().to_owned(),
                }
            })
            .collect();
        let mut networks: Vec<NetworkView> = tables
            .networks
            .iter()
            .map(|(reference, network)| NetworkView {
                reference: reference.clone(),
                uuid: network.uuid,
                name: network.name_label.clone(),
                bridge: network.bridge.clone(),
                nbd: network.purpose.iter().any(|purpose| purpose == "nbd"),
            })
            .collect();
        vms.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        srs.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        hosts.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        networks.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        Self {
            pool: pool.map(|pool| pool.uuid).unwrap_or_default(),
            pool_name: pool
                .map(|pool| pool.name_label.clone())
                .filter(|name| !name.is_empty())
                .or_else(name_of_master)
                .unwrap_or_default(),
            vms,
            srs,
            hosts,
            networks,
        }
    }
}

fn vm_view(tables: &Tables, chains: &Chains<'_>, reference: &Ref<Vm>, vm: &VmRecord) -> VmView {
    let mut disks: Vec<DiskView> = vm
        .vbds
        .iter()
        .filter_map(|vbd| tables.vbds.get(vbd))
        .filter(|vbd| vbd.kind == VbdType::Disk)
        .filter_map(|vbd| {
            let reference = vbd.vdi.as_ref()?;
            let disk: &VdiRecord = tables.vdis.get(reference)?;
            Some(DiskView {
                reference: reference.clone(),
                uuid: disk.uuid,
                name: disk.name_label.clone(),
                size: disk.virtual_size,
                device: vbd.device.clone(),
                position: vbd.userdevice.clone(),
                sr: disk.sr.as_ref().and_then(|sr| tables.srs.get(sr)).map(|sr| sr.uuid),
                cbt_enabled: disk.cbt_enabled,
                chain_depth: chains.depth(disk.uuid),
                uncoalesced: chains.uncoalesced(disk.uuid),
            })
        })
        .collect();
    disks.sort_by_key(|disk| (disk.position.parse::<u32>().unwrap_or(u32::MAX), disk.uuid));
    let mut tags = vm.tags.clone();
    tags.sort();
    VmView {
        reference: reference.clone(),
        uuid: vm.uuid,
        name: vm.name_label.clone(),
        description: vm.name_description.clone(),
        tags,
        power_state: vm.power_state,
        host: vm.resident_on.as_ref().and_then(|host| tables.hosts.get(host)).map(|host| host.uuid),
        disks,
    }
}

fn sr_view(tables: &Tables, reference: &Ref<Sr>) -> Option<SrView> {
    let sr = tables.srs.get(reference)?;
    let disks = tables.vdis.iter().filter(|(_, disk)| disk.sr.as_ref() == Some(reference)).map(|(_, disk)| disk);
    let mut hosts: Vec<Uuid> = tables
        .pbds
        .iter()
        .filter(|(_, pbd)| pbd.currently_attached && pbd.sr.as_ref() == Some(reference))
        .filter_map(|(_, pbd)| Some(tables.hosts.get(pbd.host.as_ref()?)?.uuid))
        .collect();
    hosts.sort_unstable();
    Some(SrView {
        reference: reference.clone(),
        uuid: sr.uuid,
        name: sr.name_label.clone(),
        kind: sr.kind.clone(),
        content_type: sr.content_type.clone(),
        shared: sr.shared,
        size: sr.physical_size,
        used: sr.physical_utilisation,
        hosts,
        uncoalesced: Chains::of(disks).all_uncoalesced(),
    })
}

/// Whether the pool hears a host. One without metrics is given the benefit of the doubt.
pub(crate) fn is_live(tables: &Tables, host: &Ref<Host>) -> bool {
    let metrics = tables.hosts.get(host).and_then(|host| host.metrics.as_ref());
    metrics.and_then(|metrics| tables.host_metrics.get(metrics)).is_none_or(|metrics| metrics.live)
}
