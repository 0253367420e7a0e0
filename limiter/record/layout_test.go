package record

import (
	"slices"
	"testing"
)

// TestOnlyKeysOfTheAccountSpaceAreAccounts: every write asks AccountOf whether the
// digest of a bucket changes, so a record of another space must never be taken for
// an account, whatever its key looks like.
func TestOnlyKeysOfTheAccountSpaceAreAccounts(t *testing.T) {
	t.Parallel()
	id := AccountID{15: 7}
	key := AccountKey(id)
	if got, ok := AccountOf(key); !ok || got != id {
		t.Fatalf("the account %x was read as %x, %v", id, got, ok)
	}
	for _, space := range []string{
		SpaceKeys, SpaceLookups, SpaceSalts, SpaceBuckets, SpaceDue, spaceHours, SpaceAudit, SpaceTokens,
		SpaceOnce, SpaceChildren, SpaceOutbox, SpaceJobs, SpaceParts, SpaceNodes, "x/", "m/",
	} {
		if _, ok := AccountOf(slices.Concat([]byte(space), key[len(SpaceAccounts):])); ok {
			t.Errorf("a record of the space %s was taken for an account", space)
		}
	}
}
