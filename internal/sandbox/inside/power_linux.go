package inside

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Powerful says whether this process has what root has in the host's first
// user namespace, or at least in the one it lives in.
func Powerful() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	for _, c := range []uint{unix.CAP_SYS_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE} {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	// A range of users must be there to be mapped.
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var in, out, n int64
		if k, _ := fmt.Sscan(line, &in, &out, &n); k == 3 && in <= agent.FirstUser && in+n >= agent.FirstUser+agent.UserRange {
			return true
		}
	}
	return false
}
