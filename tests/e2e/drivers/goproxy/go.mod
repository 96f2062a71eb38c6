module tailrace/e2e/goproxy

go 1.25.5
