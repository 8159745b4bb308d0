/* How a Check program ends: main() returns run_suite() of its tests. */
#ifndef SL_TESTS_SUITE_H
#define SL_TESTS_SUITE_H

#include <check.h>
#include <stdlib.h>

/* Runs and frees s. Returns the exit status. */
static inline int run_suite(Suite *s) {
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
