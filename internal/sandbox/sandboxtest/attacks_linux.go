package sandboxtest

import (
	"os"
	"slices"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
)

// attack is one of the fifteen that every driver is put to. A driver that
// promises enough is held to it; with another one the attack is shown to get
// through, where that is safe, so that no card says less than is true.
type attack struct {
	name     string
	promised func(sandbox.Capabilities) bool
	held     []check
	// open fails the test unless the attack gets through; nil where to try is
	// not safe.
	open func(*testing.T, sandbox.Driver)
	// far is what holds wherever a driver leads.
	far []check
	// why is what the card says of a driver that promises too little.
	why string
	// void: such a driver has nothing that the attack could be made on.
	void bool
}

// check is a part of an attack. Where needs is set and not promised it is left
// out: what it does would be done to the host.
type check struct {
	name  string
	run   func(*testing.T, sandbox.Driver, func() sandbox.Driver)
	needs func(sandbox.Capabilities) bool
}

// of makes a check that needs no second driver.
func of(run func(*testing.T, sandbox.Driver)) func(*testing.T, sandbox.Driver, func() sandbox.Driver) {
	return func(t *testing.T, d sandbox.Driver, _ func() sandbox.Driver) { run(t, d) }
}

// by makes a check that makes its drivers itself.
func by(run func(*testing.T, func() sandbox.Driver)) func(*testing.T, sandbox.Driver, func() sandbox.Driver) {
	return func(t *testing.T, _ sandbox.Driver, driver func() sandbox.Driver) { run(t, driver) }
}

func limited(l sandbox.Limit) func(sandbox.Capabilities) bool {
	return func(c sandbox.Capabilities) bool { return slices.Contains(c.Limits, l) }
}

func apart(c sandbox.Capabilities) bool { return c.Processes && c.Files }

var attacks = []attack{
	{name: "1: key hunt", promised: apart, held: []check{{"a clean environment", of(testCleanEnvironment), nil}, {"planted keys", of(testPlanted), nil}, {"the host's files", of(testFiles), nil}}, open: openKeyHunt,
		why: "bash reads each file and process that the worker's user may"},
	{name: "2: fork storm", promised: limited(sandbox.LimitPIDs), held: []check{{"processes", of(testProcesses), nil}, {"beside a neighbour", of(testStormBeside), nil}, {"bounds", of(testBounds), apart}},
		why: "no cgroup of the session's own"},
	{name: "3: memory bomb", promised: limited(sandbox.LimitMemory), held: []check{{"memory", of(testMemory), nil}, {"full scratch", of(testFullScratch), apart}, {"attributes", of(testAttributes), apart}},
		why: "no cgroup of the session's own"},
	{name: "4: disk fill", promised: func(c sandbox.Capabilities) bool { return c.Tree && os.Getuid() == 0 || limited(sandbox.LimitDisk)(c) }, held: []check{{"disk", by(testDisk), nil}},
		why: "no disk of the session's own"},
	{name: "5: output flood", promised: func(c sandbox.Capabilities) bool { return c.Tree }, held: []check{{"flood", of(testFlood), nil}, {"noise", of(testNoise), nil}, {"junk", of(testJunk), nil}},
		far: []check{{"flood", of(testFlood), nil}, {"noise", of(testNoise), nil}}},
	{name: "6: link race in file tools", promised: func(c sandbox.Capabilities) bool { return c.Tree }, held: []check{{"race", of(testLinkRace), nil}},
		why: "the file tools run where the session does, and see what it sees"},
	{name: "7: neighbour", promised: apart, held: []check{{"files and processes", of(testNeighbour), nil}, {"other names", of(testNeighbourIPC), nil}, {"keyring", of(testKeyring), nil}}, open: openNeighbour,
		why: "sessions share the worker's user"},
	{name: "8: kernel doors", promised: func(c sandbox.Capabilities) bool { return c.Syscalls && c.Privileges }, held: []check{{"privileges", of(testPrivileges), nil}, {"system calls", of(testSyscalls), nil}}, open: openDoors,
		why: "each system call of the worker's user is open"},
	{name: "9: privilege up", promised: func(c sandbox.Capabilities) bool { return c.Privileges }, held: []check{{"planted programs", of(testRise), nil}}, open: openRise,
		why: "bash is the worker's user; where that is root, bash is root"},
	{name: "10: signals at the supervisor", promised: apart, held: []check{{"signals", of(testSignals), nil}, {"by threads", of(testThreads), nil}}, open: openSignals,
		why: "bash may signal the worker, which has the same user"},
	{name: "11: nothing survives", promised: func(c sandbox.Capabilities) bool { return c.Recover && (c.Processes || limited(sandbox.LimitPIDs)(c)) }, held: []check{{"daemons", by(testDaemons), nil}},
		why: "what hides its environment outlives the session where that has no cgroup"},
	{name: "12: no network", promised: func(c sandbox.Capabilities) bool { return c.Network }, held: []check{{"network", of(testNetwork), nil}, {"each door", of(testAttack12), nil}}, open: openNetwork,
		why: "it is the worker's network"},
	{name: "13: around the allow-list", promised: func(c sandbox.Capabilities) bool { return c.Egress }, held: []check{{"each way around", of(testAttack13), nil}, {"by variable", of(testNoEgressByVariable), nil}}, open: refusesAllowList,
		why: "a policy that names hosts is refused", void: true},
	{name: "14: hostile archives", promised: func(c sandbox.Capabilities) bool { return c.Tree }, held: []check{{"archives", of(testArchives), nil}},
		why: "archives are unpacked where the session is", void: true},
	{name: "15: enforcement that vanishes", promised: apart, held: []check{{"each step", of(testVanishing), nil}}, open: refusesRequired,
		why: "only limits are promised; a required one that cannot be held refuses the session", void: true},
}

// Attacks puts a driver that has been probed to the fifteen attacks and compares
// how it fared with the report card in docs/security.md. driver makes more.
func Attacks(t *testing.T, d sandbox.Driver, driver func() sandbox.Driver) {
	promised := d.Capabilities()
	fared := map[int]outcome{}
	for i, a := range attacks {
		t.Run("attack "+a.name, func(t *testing.T) {
			whole := true
			run := func(checks []check) {
				for _, c := range checks {
					if c.needs != nil && !c.needs(promised) {
						continue
					}
					t.Run(c.name, func(t *testing.T) {
						defer func() { whole = whole && !t.Skipped() }()
						c.run(t, d, driver)
					})
				}
			}
			o := outcome{mark: through, why: a.why}
			switch {
			case a.promised(promised):
				run(a.held)
				o = outcome{mark: stopped}
			case !promised.Tree && !a.void: // the session is wherever the driver leads
				run(a.far)
				o = outcome{mark: depends}
			default:
				if a.void {
					o.mark = void
				}
				if a.open != nil {
					a.open(t, d)
				}
			}
			if whole && !t.Failed() {
				fared[i] = o
			}
		})
	}
	if os.Getuid() == 0 { // the card is of a worker that runs as root
		report(t, d.Name(), fared)
	}
}
