# Gets $TILL/file as a program does that logs in when it is asked to.
import os, sys, urllib.error, urllib.request

till, key = os.environ["TILL"], os.environ["KEY"]
passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
passwords.add_password(None, till, "x", key)
opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
try:
    print(opener.open(till + "/file").read().decode())
except urllib.error.HTTPError as e:
    sys.exit(f"{e}: {e.read().decode()}")
