package agent

import (
	"path"
	"path/filepath"
	"strconv"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// EgressDir is where a sandbox sees the directory of Network.Socket, read-only.
const EgressDir = "/run/egress"

// Egress is the proxy's socket as it is seen inside, for Boot.Egress; "" for
// a session that has none.
func Egress(n sandbox.Network) string { return within(n.Socket) }

// within is a file beside the proxy's socket as it is seen inside.
func within(file string) string {
	if file == "" {
		return ""
	}
	return path.Join(EgressDir, filepath.Base(file))
}

// wayOut are the variables by which programs find the proxy and whom to trust
// behind it.
func wayOut(n sandbox.Network) map[string]string {
	if n.Socket == "" {
		return nil
	}
	proxy := "http://127.0.0.1:" + strconv.Itoa(agentwire.ProxyPort)
	const none = "localhost,127.0.0.1,::1"
	vars := map[string]string{
		"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "ALL_PROXY": proxy, "NO_PROXY": none,
		"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": none,
		"NODE_USE_ENV_PROXY": "1",
	}
	if n.CA != "" {
		vars["NODE_EXTRA_CA_CERTS"] = within(n.CA)
		for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE"} {
			vars[name] = within(n.Bundle)
		}
	}
	return vars
}
