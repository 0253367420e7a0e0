module example.com/a/module

go 1.26.0
