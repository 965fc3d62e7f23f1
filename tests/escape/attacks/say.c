// A harmless program with sub-commands, for rules on arguments.
#include <stdio.h>
int main(int c, char **v) {
    printf("SAID");
    for (int i = 1; i < c; i++) printf(" %s", v[i]);
    puts("");
    return 0;
}
