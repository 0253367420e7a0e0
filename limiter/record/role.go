package record

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/scope"
)

// Role is a ceiling for the keys minted under it, what its callers may do, and a
// budget that all its keys share. Callers of a role are those whose admin token has
// it.
type Role struct {
	// Budget is shared by all keys of the role.
	Budget RoleBudget

	Permissions []Permission
	Sees        Sight // empty: SeesOwn

	// Max are the ceilings of a key's limits; 0 where there is none.
	Max Amounts
	// MaxLifetime bounds the time from minting to expiry; 0: no bound.
	MaxLifetime time.Duration
	// Upstreams are the upstreams that keys may be for; empty: all.
	Upstreams []string
	// Scope is the widest scope that keys may have.
	Scope scope.Scope
}

// RoleBudget is the budget that all keys of a role share, with NoLimit for kinds
// without a limit. Use counts against it, minting does not.
type RoleBudget struct {
	Limit  Amounts
	Renews Renewal
}

// NewRole is a role that limits nothing and permits nothing.
func NewRole() Role {
	return Role{Budget: RoleBudget{Limit: NoLimits()}}
}

func RoleAccount(name string) AccountID {
	sum := sha256.Sum256([]byte("role:" + name))
	return AccountID(sum[:16])
}

// Permission is a right that a role gives its callers.
type Permission string

// These are the permissions. Everything is the operator's alone, and no role has it.
const (
	KeysCreate   Permission = "keys:create"
	KeysRead     Permission = "keys:read"
	KeysUpdate   Permission = "keys:update"
	KeysRevoke   Permission = "keys:revoke"
	KeysRotate   Permission = "keys:rotate"
	AuditRead    Permission = "audit:read"
	TokensManage Permission = "tokens:manage"
	Everything   Permission = "*"
)

// Permissions are the permissions that a role may be given.
var Permissions = []Permission{KeysCreate, KeysRead, KeysUpdate, KeysRevoke, KeysRotate, AuditRead, TokensManage}

// Sight says which keys a role's callers see. All other keys are answered for as if
// they did not exist.
type Sight string

// These are the sights.
const (
	// SeesOwn covers the keys minted with the caller's token, and their
	// descendants.
	SeesOwn Sight = "own"
	// SeesRole covers the keys of the caller's role, and the caller's own.
	SeesRole Sight = "role"
	SeesAll  Sight = "all"
)

var Sights = [...]Sight{SeesOwn, SeesRole, SeesAll}

// ParseSight reads a sight. Empty is none.
func ParseSight(s string) (Sight, error) {
	if sight := Sight(s); slices.Contains(Sights[:], sight) {
		return sight, nil
	}
	return "", fmt.Errorf("sees must be %s, got %q", Either(Sights[:]), s)
}

// OperatorRole is the role of the operator, who may do everything. No other
// role can have this name.
const OperatorRole = "*"

// OperatorName is what the operator is called.
const OperatorName = "operator"
