package till

import (
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// diagnoseDatabase finds faults in how this node shares its store. It connects to
// nothing.
func (a *App) diagnoseDatabase(d *diagnosis) {
	if a.database.literals() {
		d.error("literal_credential", "put the address into a file of mode 0600: store postgres {file./etc/till/database}",
			"the password of the database stands in the configuration, which the admin endpoint and the autosave show")
	}
	at := a.database.address.Load()
	for _, dsn := range []string{at.dsn.Reveal(), at.listen.Reveal()} {
		if dsn == "" {
			continue
		}
		conf, err := pgconn.ParseConfig(dsn)
		if err != nil {
			continue // never: it was parsed before
		}
		if host := unencryptedHost(conf); host != "" {
			d.warn("plain_database", "in its address: ?sslmode=verify-full, and sslrootcert=/etc/till/database-ca.pem if its certificate is of your own making",
				"the database at %s may be reached unencrypted, so others on the way could read its password and change budgets", host)
			break
		}
	}
	if !a.sealing.named {
		d.warn("seal_key_place", "give all nodes the same one: seal_key {file./etc/till/seal.key}",
			"this node makes a seal key of its own, %s, so the others cannot open the sealed keys that are minted here", a.sealing.file)
	}
}

// unencryptedHost returns a host that may be reached over a network without TLS, or "".
func unencryptedHost(conf *pgconn.Config) string {
	plain := func(host string) bool { return !strings.HasPrefix(host, "/") && !isLoopback(host) }
	if conf.TLSConfig == nil && plain(conf.Host) {
		return conf.Host
	}
	for _, f := range conf.Fallbacks {
		if f.TLSConfig == nil && plain(f.Host) {
			return f.Host
		}
	}
	return ""
}
