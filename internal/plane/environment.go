package plane

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// Settings of an environment are metadata keys with this prefix.
const settingPrefix = "berth."

// Settings that an environment may have.
const (
	SettingQueue          = "berth.queue"             // "creation" (the default) or "first_input": when a session's work is queued
	SettingLeaseTTL       = "berth.lease_ttl_seconds" // 10 to 600
	SettingStartupSeconds = "berth.startup_seconds"   // 10 to 3600: from the ack to the first beat
	SettingResources      = "berth.resources"         // "off" (the default); "on" is not supported yet
)

const maxDescription = 2048

// NewEnvironment is the environment that a create request asks for.
func NewEnvironment(c api.CreateEnvironment, now time.Time) (Environment, error) {
	if err := checkText("name", c.Name, 1, 256); err != nil {
		return Environment{}, err
	}
	if c.Config == nil {
		return Environment{}, Errorf(Invalid, `is required; this server runs {"type":"self_hosted"} environments only`).In("config")
	}
	if err := checkConfig(*c.Config); err != nil {
		return Environment{}, err
	}
	if err := checkScope(c.Scope); err != nil {
		return Environment{}, err
	}
	if c.Description != nil {
		if err := checkText("description", *c.Description, 0, maxDescription); err != nil {
			return Environment{}, err
		}
	}
	metadata := maps.Clone(c.Metadata)
	if metadata == nil {
		metadata = api.Metadata{}
	}
	if err := checkEnvironmentMetadata(metadata); err != nil {
		return Environment{}, err
	}
	return Environment{api.Environment{
		ID: NewID(PrefixEnvironment), Type: "environment", Name: c.Name, Description: c.Description,
		Config: api.EnvironmentConfig{Type: "self_hosted"}, Metadata: metadata, Scope: "organization",
		CreatedAt: now, UpdatedAt: now,
	}}, nil
}

// UpdatedEnvironment is cur with u applied; changed says whether anything
// differs.
func UpdatedEnvironment(cur Environment, u api.UpdateEnvironment, now time.Time) (next Environment, changed bool, err error) {
	if cur.ArchivedAt != nil {
		return cur, false, Errorf(Invalid, "environment %s is archived and cannot be changed", cur.ID).WithCode("environment_archived")
	}
	next = cur
	if u.Name.Set {
		if err := checkText("name", u.Name.Value, 1, 256); err != nil {
			return cur, false, err
		}
		next.Name = u.Name.Value
	}
	if u.Description.Set {
		next.Description = nil
		if !u.Description.Null {
			if err := checkText("description", u.Description.Value, 0, maxDescription); err != nil {
				return cur, false, err
			}
			next.Description = &u.Description.Value
		}
	}
	if u.Config.Set {
		if u.Config.Null {
			return cur, false, Errorf(Invalid, "cannot be null").In("config")
		}
		if t := u.Config.Value.Type; t != cur.Config.Type && t != "" {
			return cur, false, Errorf(Invalid, "cannot change from %q to %q", cur.Config.Type, t).In("config.type").WithCode("invalid_config_type_change")
		}
		if err := checkConfig(u.Config.Value); err != nil {
			return cur, false, err
		}
	}
	if u.Scope.Set && !u.Scope.Null {
		if err := checkScope(u.Scope.Value); err != nil {
			return cur, false, err
		}
	}
	if u.Metadata.Set && !u.Metadata.Null {
		next.Metadata = PatchMetadata(cur.Metadata, u.Metadata.Value, true)
		if err := checkEnvironmentMetadata(next.Metadata); err != nil {
			return cur, false, err
		}
	}
	changed = next.Name != cur.Name || !samePointee(next.Description, cur.Description) || !maps.Equal(next.Metadata, cur.Metadata)
	if changed {
		next.UpdatedAt = now
	}
	return next, changed, nil
}

// ArchivedEnvironment is cur taken out of use; archiving twice changes nothing.
func ArchivedEnvironment(cur Environment, now time.Time) Environment {
	if cur.ArchivedAt == nil {
		cur.ArchivedAt, cur.UpdatedAt = &now, now
	}
	return cur
}

func checkConfig(c api.EnvironmentConfig) error {
	switch c.Type {
	case "self_hosted":
	case "cloud":
		return Errorf(Invalid, `"cloud" environments are not supported by this server; use "self_hosted"`).In("config.type")
	case "":
		return Errorf(Invalid, `is required; use "self_hosted"`).In("config.type")
	default:
		return Errorf(Invalid, `%q is not known; use "self_hosted"`, c.Type).In("config.type")
	}
	for field, member := range map[string]json.RawMessage{"config.networking": c.Networking, "config.packages": c.Packages} {
		if present(member) {
			return Errorf(Invalid, "does not belong to a self_hosted environment").In(field)
		}
	}
	return nil
}

func checkScope(scope string) error {
	switch scope {
	case "", "organization":
		return nil
	case "account":
		return Errorf(Invalid, `"account" is not allowed here; use "organization"`).In("scope")
	}
	return Errorf(Invalid, `%q is not known; use "organization"`, scope).In("scope")
}

func checkEnvironmentMetadata(m api.Metadata) error {
	if err := CheckMetadata("metadata", m); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !strings.HasPrefix(k, settingPrefix) {
			continue
		}
		field, v := "metadata."+k, m[k]
		switch k {
		case SettingQueue:
			if v != "creation" && v != "first_input" {
				return badMetadata(field, `is %q; use "creation" or "first_input"`, v)
			}
		case SettingLeaseTTL:
			if !wholeBetween(v, 10, 600) {
				return badMetadata(field, "is %q; use a whole number from 10 to 600", v)
			}
		case SettingStartupSeconds:
			if !wholeBetween(v, 10, 3600) {
				return badMetadata(field, "is %q; use a whole number from 10 to 3600", v)
			}
		case SettingResources:
			if v == "on" {
				return badMetadata(field, `"on" is not supported by this server yet; use "off" or leave it out`)
			}
			if v != "off" {
				return badMetadata(field, `is %q; use "off"`, v)
			}
		default:
			return badMetadata(field, "is not a setting of this server; keys that begin with %q are reserved", settingPrefix)
		}
	}
	return nil
}

func wholeBetween(s string, least, most int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= least && n <= most && strconv.Itoa(n) == s
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

func samePointee[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
