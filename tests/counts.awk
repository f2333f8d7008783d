# From what a runner of tests said: how many ran, how many of them passed, how many were left out, and whether it said so at all.
#
# cargo nextest: "Summary [ 9.9s] 12 tests run: 11 passed (1 slow), 1 failed, 0 skipped"; one that fails may say "7/12 tests run". Tests of
# its own programs it shows indented.
# cargo test, for each program: "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
function before(word,   i) { for (i = 2; i <= NF; i++) if ($i ~ "^" word) return $(i - 1) + 0; return 0 }
/^ *Summary \[/ { sub(/.*\] */, ""); run += $1; passed += before("passed"); left += before("skipped"); seen = 1 }
/^test result: / { p = before("passed"); f = before("failed"); run += p + f; passed += p
                   left += before("ignored") + before("filtered"); seen = 1 }
END { print run + 0, passed + 0, left + 0, seen + 0 }
