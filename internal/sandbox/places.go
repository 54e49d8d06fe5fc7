package sandbox

import "strings"

// Filled puts in what the zero value stands for.
func (u User) Filled() User {
	if u.Name == "" {
		u.Name = "agent"
	}
	if u.UID == 0 {
		u.UID = 1000
	}
	return u
}

// Home is the user's directory inside.
func (u User) Home() string { return "/home/" + u.Name }

// system are the places inside that a sandbox makes of itself.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sys", "/dev", "/etc", "/run", "/var/run", "/var/tmp"}

// sessions are the places that the session's tree is shown at.
var sessions = []string{"/workspace", "/mnt/session", "/mnt/memory", "/tmp"}

// Reserved says which of the sandbox's own places an absolute path inside
// would be in or would cover, "" for none. Mounts keep off them.
func Reserved(path string) string {
	for _, own := range append(append([]string{"/home"}, system...), sessions...) {
		if path == own || path == "/" || strings.HasPrefix(own, path+"/") || strings.HasPrefix(path, own+"/") && own != "/home" {
			return own
		}
	}
	return ""
}
