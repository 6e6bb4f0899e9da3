//! What any bytes may be sent as: each request, and what its options come to.

use super::message::{CreateEndpoint, CreateNetwork, EndpointName, GatewayCheck, Join, NetworkName, PortBinding};
use super::{ipam, options, ports};
use crate::control::desired::{Desired, HostView};

/// Reads `data` as every request there is. What is understood must hold to the rules of the state, and what is listed must be
/// read again as it was.
///
/// # Panics
/// When that does not hold.
pub(crate) fn messages(data: &[u8]) {
    let _ = serde_json::from_slice::<NetworkName>(data);
    let _ = serde_json::from_slice::<EndpointName>(data);
    let _ = serde_json::from_slice::<ipam::RequestPool>(data);
    let _ = serde_json::from_slice::<ipam::RequestAddress>(data);
    if let Ok(request) = serde_json::from_slice::<GatewayCheck>(data) {
        let _ = options::needs_no_gateway(&request.options);
    }
    if let Ok(request) = serde_json::from_slice::<CreateNetwork>(data)
        && let Ok(spec) = options::network(&request)
    {
        let mut desired = Desired::default();
        if desired.add_docker_network(&spec, &HostView::default()).is_ok() {
            desired.check().expect("what is accepted holds to the rules");
            let text = serde_json::to_vec(&desired).expect("the state can be written");
            assert_eq!(serde_json::from_slice::<Desired>(&text).expect("and read"), desired);
        }
    }
    if let Ok(request) = serde_json::from_slice::<CreateEndpoint>(data) {
        let _ = options::endpoint(&request.options);
    }
    let Ok(request) = serde_json::from_slice::<Join>(data) else { return };
    let _ = ports::exposed(&request.options).map(|exposed| ports::transport_ports(&exposed));
    if let Ok(published) = ports::published(&request.options) {
        for spec in published {
            let shown = spec.to_string();
            assert_eq!(shown.parse(), Ok(spec), "what is asked for can be written");
        }
    }
    let _ = serde_json::from_slice::<Vec<PortBinding>>(data);
}
