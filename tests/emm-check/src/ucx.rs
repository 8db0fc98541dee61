//! How UCX, and Open MPI over it, are told to use rxe.

/// Variables: Open MPI does not take rxe for a network by itself, and both ranks shall use it and nothing else.
pub const OVER_UCX: [(&str, &str); 11] = [
    ("OMPI_MCA_pml", "ucx"),
    ("OMPI_MCA_osc", "ucx"),
    ("OMPI_MCA_btl", "self"),
    ("OMPI_MCA_opal_common_ucx_tls", "any"),
    ("OMPI_MCA_opal_common_ucx_devices", "any"),
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("UCX_NET_DEVICES", "rxe0:1"),
    ("UCX_TLS", "rc_verbs,ud_verbs:aux,self"),
    // The address is an IPv4 one: its GID is no routable IPv6 one.
    ("UCX_UD_ETH_DGID_CHECK", "n"),
    ("UCX_WARN_UNUSED_ENV_VARS", "n"),
];
