//! The way to the network, as the host is set up for it: proxies, and whose signatures are believed.

use std::path::{Path, PathBuf};

use crate::proc::Cmd;

/// Where distributions keep all certificates in one file: Debian and Arch, Fedora and RHEL, openSUSE, Alpine.
const CA_BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// Where programs of the root look for it.
pub const CA_BUNDLE_INSIDE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The bundle of the host whose file system is at `root`: `own` if it is there (SSL_CERT_FILE), or its distribution's.
pub fn ca_bundle(root: &Path, own: Option<PathBuf>) -> Option<PathBuf> {
    let known = CA_BUNDLES.iter().map(|path| root.join(path));
    own.into_iter()
        .chain(known)
        .filter_map(|path| path.canonicalize().ok())
        .find(|path| path.is_file())
}

/// The proxies to pass on into the root, as variables of the environment.
pub fn proxies() -> Vec<(String, String)> {
    all_proxies(|name| std::env::var(name).ok(), of_apt)
}

/// Those of the environment; for what it has none of, those of apt.
fn all_proxies(
    variable: impl Fn(&str) -> Option<String>,
    of_apt: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = ["http_proxy", "https_proxy", "no_proxy", "all_proxy"]
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_uppercase()])
        .filter_map(|name| Some((name.clone(), variable(&name)?)))
        .collect();
    for scheme in ["http", "https"] {
        let name = format!("{scheme}_proxy");
        if found
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(&name))
        {
            continue;
        }
        // What apt is told of http holds for https, if that is not told otherwise (apt-transport-https(1)).
        let said = of_apt(scheme).or_else(|| of_apt("http"));
        if let Some(proxy) = said.filter(|proxy| proxy != "DIRECT") {
            found.push((name, proxy));
        }
    }
    found
}

/// The proxy of apt's own configuration for `scheme`, or `DIRECT`.
fn of_apt(scheme: &str) -> Option<String> {
    let key = format!("Acquire::{scheme}::Proxy");
    let asked = Cmd::new("apt-config").args(["shell", "P", &key]);
    let output = asked.capture().ok()?;
    said(&String::from_utf8_lossy(&output.stdout))
}

/// The value in what `apt-config shell P …` says.
fn said(text: &str) -> Option<String> {
    let value = text.trim().strip_prefix("P='")?.strip_suffix('\'')?;
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_apts_own_configuration_is_met() {
        let none = |_: &str| None;
        let http =
            |scheme: &str| (scheme == "http").then(|| "http://cache.example:3142".to_owned());
        let names = |found: &[(String, String)]| -> Vec<String> {
            found.iter().map(|(name, _)| name.clone()).collect()
        };
        assert!(all_proxies(none, none).is_empty());
        let found = all_proxies(none, http);
        assert_eq!(names(&found), ["http_proxy", "https_proxy"]);
        assert!(
            found
                .iter()
                .all(|(_, proxy)| proxy == "http://cache.example:3142")
        );
        // No proxy for https, by apt's own word.
        let direct = |scheme: &str| http(scheme).or_else(|| Some("DIRECT".to_owned()));
        assert_eq!(names(&all_proxies(none, direct)), ["http_proxy"]);
        // The environment comes first, in either spelling.
        let variable = |name: &str| (name == "HTTP_PROXY").then(|| "http://env.example".to_owned());
        let found = all_proxies(variable, http);
        assert_eq!(names(&found), ["HTTP_PROXY", "https_proxy"]);
    }

    #[test]
    fn what_apt_config_says() {
        assert_eq!(
            said("P='http://p.example:1'\n").as_deref(),
            Some("http://p.example:1")
        );
        assert_eq!(said(""), None);
        assert_eq!(said("P=''\n"), None);
    }

    #[test]
    fn bundles_of_other_distributions_are_met() {
        for place in CA_BUNDLES {
            let root = tempfile::tempdir().unwrap();
            assert_eq!(ca_bundle(root.path(), None), None);
            let path = root.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "certificates").unwrap();
            let real = path.canonicalize().unwrap();
            assert_eq!(ca_bundle(root.path(), None), Some(real.clone()));
            let gone = Some(root.path().join("no-such"));
            assert_eq!(ca_bundle(root.path(), gone), Some(real.clone()));
            let own = root.path().join("own.pem");
            std::fs::write(&own, "certificates").unwrap();
            assert_ne!(ca_bundle(root.path(), Some(own)), Some(real));
        }
    }
}
