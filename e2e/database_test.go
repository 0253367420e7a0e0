package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// inDatabase is what stands behind store postgres: a schema of a database, and what the
// server calls itself there, unless it is to find a name.
func inDatabase(dsn, schema, name string) string {
	if name != "" {
		name = "\n\t\t\tnode " + name
	}
	return fmt.Sprintf("%q {\n\t\t\tschema %s\n\t\t\tmax_conns 4%s\n\t\t}", dsn, schema, name)
}

// storeVariable lets all tests that start a server do so over another store.
const storeVariable = "TILL_TEST_STORE"

// otherStore is a schema of its own when storeVariable says "postgres", and "" when it
// says nothing.
func otherStore(t *testing.T) (dsn, schema string) {
	t.Helper()
	switch store := os.Getenv(storeVariable); store {
	case "", "badger":
		return "", ""
	case "postgres":
	default:
		t.Fatalf("%s must be badger or postgres, got %q", storeVariable, store)
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	if reason := badgersFiles[name]; reason != "" {
		t.Skip("not over a database: ", reason)
	}
	return postgrestest.Schema(t)
}

// badgersFiles are the tests that are about the files of store badger, with the
// reason why they are not about a database.
var badgersFiles = map[string]string{
	"TestARestoredOldStoreGrantsNothing":                              "it puts back an older directory, against which there is the anchor",
	"TestTheAnchorIsNotMovedByAReload":                                "a database has no anchor",
	"TestLockdownCutsStreamsAndHoldsOverReloadRestartAndAClosedStore": "it closes the store by taking its anchor away",
	"TestTheConsoleWorksWhileTheStoreIsClosed":                        "it closes the store by taking its anchor away",
	"TestABackupOfARunningServerIsRestored":                           "a database is backed up by its own means",
	"TestSealedKeysRestoredWithoutSaltsAreShownAsSuch":                "a database is backed up by its own means",
	"TestTorturePowerCuts":                                            "it cuts the power of the directory's disk",
	"TestAFullDiskIsSurvivedAndHeals":                                 "it fills the directory's disk",
	"TestAReadOnlyStoreRefusesAndHeals":                               "it makes the directory's disk read-only",
	"TestAStoreMovedAwayUnderARunningServerRefusesAndHeals":           "it moves the directory away",
	"TestASecondServerOnTheSameStoreFailsClearly":                     "a second server on a database is another node",
	"TestTheListPaintsWithinASecond":                                  "it fills the directory while no server runs",
	"TestScreens":                                                     "it fills the directory while no server runs",
}
