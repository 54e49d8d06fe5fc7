package plane

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
)

// Limits of metadata everywhere: pairs, and characters of a key and a value.
const (
	MaxMetadataPairs = 16
	MaxMetadataKey   = 64
	MaxMetadataValue = 512
)

// CheckMetadata holds m to the limits of metadata. field is where it stands
// in the request. The error is Invalid with the code invalid_metadata.
func CheckMetadata(field string, m api.Metadata) error {
	if len(m) > MaxMetadataPairs {
		return badMetadata(field, "has %d pairs; at most %d are allowed", len(m), MaxMetadataPairs)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch {
		case k == "":
			return badMetadata(field, "has an empty key")
		case strings.IndexByte(k, 0) >= 0 || strings.IndexByte(m[k], 0) >= 0:
			return badMetadata(field+"."+k, "must not hold NUL")
		case utf8.RuneCountInString(k) > MaxMetadataKey:
			return badMetadata(field, "has a key of %d characters; at most %d are allowed", utf8.RuneCountInString(k), MaxMetadataKey)
		case utf8.RuneCountInString(m[k]) > MaxMetadataValue:
			return badMetadata(field+"."+k, "is %d characters long; at most %d are allowed", utf8.RuneCountInString(m[k]), MaxMetadataValue)
		}
	}
	return nil
}

// PatchMetadata is cur with patch merged in, as a new map: null deletes a key,
// and so does "" when emptyDeletes is set. It does not check the result.
func PatchMetadata(cur api.Metadata, patch api.MetadataPatch, emptyDeletes bool) api.Metadata {
	next := maps.Clone(cur)
	if next == nil {
		next = api.Metadata{}
	}
	for k, v := range patch {
		if v == nil || emptyDeletes && *v == "" {
			delete(next, k)
			continue
		}
		next[k] = *v
	}
	return next
}

func badMetadata(field, format string, args ...any) *Error {
	return Errorf(Invalid, format, args...).In(field).WithCode("invalid_metadata")
}

// checkText bounds a text in characters.
func checkText(field, s string, least, most int) error {
	n := utf8.RuneCountInString(s)
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return Errorf(Invalid, "must not hold NUL").In(field)
	case n < least && n == 0:
		return Errorf(Invalid, "is required").In(field)
	case n < least:
		return Errorf(Invalid, "is %d characters long; at least %d are needed", n, least).In(field)
	case n > most:
		return Errorf(Invalid, "is %d characters long; at most %d are allowed", n, most).In(field)
	}
	return nil
}

// unsupported refuses a field that the API has and this server does not.
func unsupported(field, what string) error {
	return Errorf(Invalid, "%s not supported by this server yet; leave the field out", what).In(field)
}
